"""ImageNet in its two original tar files; a UserError names what is damaged."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from metasemi_jax.data.images.attempts import check_all
from metasemi_jax.data.images.decode import check_image
from metasemi_jax.data.images.tar_images import TarImages, files_in, open_part
from metasemi_jax.data.sources.archives import unreadable
from metasemi_jax.errors import UserError
from metasemi_jax.progress import ImageCounter, ProgressLine

ARCHIVES = {'train': 'ILSVRC2012_img_train.tar', 'validation': 'ILSVRC2012_img_val.tar'}
SITE = 'https://image-net.org/download-images (which asks you to register)'
NUM_IMAGES = 1_281_167 + 50_000


class TarSource:
    """The folder of the two archives, another one in each run if need be."""

    def __init__(self, folder: Path):
        """Refuse a `folder` that lacks an archive, or holds one of another size.

        Their checksums are not computed: that would read 155 GB. `index` finds what is damaged inside.
        """
        import tensorflow_datasets as tfds

        infos = tfds.builder_cls('imagenet2012').url_infos
        sizes = {url.rpartition('/')[2]: int(info.size) for url, info in infos.items()}
        missing = [name for name in ARCHIVES.values() if not (folder / name).is_file()]
        if missing:
            files = ' and '.join(f'{name} ({sizes[name]} bytes)' for name in missing)
            raise UserError(
                f'imagenet2012: {folder} lacks {files}, which every run reads; get them from {SITE} and name '
                'their folder with data.manual_dir='
            )
        self.place = folder
        self._paths = {split: folder / name for split, name in ARCHIVES.items()}
        statuses = {path: path.stat() for path in self._paths.values()}
        for path, status in statuses.items():
            if status.st_size != sizes[path.name]:
                raise UserError(
                    f'imagenet2012: {path} is damaged: it has {status.st_size} bytes; it should have '
                    f'{sizes[path.name]} bytes: get it again from {SITE}'
                )
        # Whole seconds: not every file system that a folder moves to keeps more.
        self._changed = np.array([int(status.st_mtime) for status in statuses.values()])

    def matches(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether `arrays` index these archives, by their sizes and times of change."""
        return np.array_equal(arrays['changed'], self._changed)

    def index(self, line: ProgressLine) -> tuple[dict[str, np.ndarray], list[str]]:
        """Index the images in TFDS's order; decodes every one, in small.

        Returns:
          SPLIT_labels int32 [N], SPLIT_ids str [N], SPLIT_places int64 [N, 2] as `TarImages` takes them, and
          changed int64 [2], when the archives were; names of the classes.
        """
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.hashing import Hasher

        class_names = tfds.core.tfds_path('datasets/imagenet2012/labels.txt').read_text().split()
        number = {synset: k for k, synset in enumerate(class_names)}
        images, found = [], ImageCounter(line, 'imagenet2012: found')
        for path, read in zip(self._paths.values(), (training_images, validation_images), strict=True):
            with unreadable(path):
                for name, synset, start, length in read(path):
                    found(NUM_IMAGES)
                    images.append((name, number[synset], path, start, length))
        # In the order of the archives, which disks read faster than another.
        check_all(
            lambda i: check_image(open_part(*images[i][2:])),
            [image[0] for image in images],
            line,
            'imagenet2012',
            f'get the archive in {self.place} that holds them again from {SITE}',
        )
        arrays = {'changed': self._changed}
        for split, path in self._paths.items():
            # TFDS sorts a split by the MD5 of its name and the image's. Runs know test images by their order.
            key = Hasher(split).hash_key
            ordered = sorted((image for image in images if image[2] == path), key=lambda image: key(image[0]))
            ids, labels, _, *places = zip(*ordered, strict=True)
            arrays |= {f'{split}_labels': np.array(labels, np.int32), f'{split}_ids': np.array(ids)}
            arrays[f'{split}_places'] = np.array(places, np.int64).T
        return arrays, class_names

    def images(self, split: str, arrays: Mapping[str, np.ndarray]) -> TarImages:
        """The encoded images of `split`, in the order of `arrays`."""
        return TarImages(self._paths[split], arrays[f'{split}_places'])


def training_images(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """(file name, synset, first byte, bytes) of each image in a tar file of tar files, one a synset."""
    with tarfile.open(path, 'r:') as archive:
        for synset in files_in(archive):
            with archive.extractfile(synset) as file, tarfile.open(fileobj=file, mode='r:') as images:
                for image in files_in(images):
                    start = synset.offset_data + image.offset_data
                    yield image.name, synset.name.removesuffix('.tar'), start, image.size


def validation_images(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """As `training_images`, of a flat tar file; TFDS lists the labels in the order of the files' names."""
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
    with tarfile.open(path, 'r:') as archive:
        members = list(files_in(archive))
    label_of = dict(zip(sorted(member.name for member in members), labels, strict=False))
    for member in members:
        yield member.name, label_of[member.name], member.offset_data, member.size
