"""Checks and reads the two tar files of ImageNet; a UserError names what is damaged."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metasemi_jax.data.sources.archives import unreadable
from metasemi_jax.data.sources.tfds_prepare import SplitGenerators
from metasemi_jax.errors import UserError

ARCHIVES = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')
SOURCE = 'https://image-net.org/download-images (which asks you to register)'
NUM_IMAGES = 1_281_167 + 50_000
JPEG_QUALITY = 100  # TFDS's, for the few images that are encoded anew


def check_archives(folder: Path) -> None:
    """Refuse a `folder` that lacks an archive, or holds one of another size.

    Their checksums are not computed: that would read 155 GB. What is damaged inside is found when the images
    are read.
    """
    import tensorflow_datasets as tfds

    infos = tfds.builder_cls('imagenet2012').url_infos
    sizes = {url.rpartition('/')[2]: int(info.size) for url, info in infos.items()}
    missing = [name for name in ARCHIVES if not (folder / name).is_file()]
    if missing:
        files = ' and '.join(f'{name} ({sizes[name]} bytes)' for name in missing)
        raise UserError(
            f'imagenet2012: {folder} lacks {files}; get them from {SOURCE} and name their folder with '
            'data.manual_dir='
        )
    for name in ARCHIVES:
        found = (folder / name).stat().st_size
        if found != sizes[name]:
            raise UserError(
                f'imagenet2012: {folder / name} is damaged: it has {found} bytes; it should have '
                f'{sizes[name]} bytes: get it again from {SOURCE}'
            )


def imagenet_splits(folder: Path, count: Callable[[int], None]) -> SplitGenerators:
    """For `prepare`: what the stock builder yields, in its order; `count` as for `ImageCounter`."""

    def split_generators(builder: Any, dl_manager: Any) -> dict[str, Iterator]:
        del builder, dl_manager
        return {
            'train': _examples(training_images(folder / ARCHIVES[0]), count),
            'validation': _examples(validation_images(folder / ARCHIVES[1]), count),
        }

    return split_generators


def training_images(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(file name, synset, bytes) of each image in a tar file of tar files, one for each synset."""
    with unreadable(path), tarfile.open(path, 'r:') as archive:
        for synset in archive:
            if not synset.isfile():
                continue
            with tarfile.open(fileobj=archive.extractfile(synset), mode='r:') as images:
                for image in images:
                    if image.isfile():
                        yield image.name, synset.name.removesuffix('.tar'), images.extractfile(image).read()


def validation_images(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """As `training_images`, of a flat tar file; TFDS lists the labels in the order of the files' names."""
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
    with unreadable(path), tarfile.open(path, 'r:') as archive:
        members = [member for member in archive if member.isfile()]
        label_of = dict(zip(sorted(member.name for member in members), labels, strict=False))
        for member in members:
            yield member.name, label_of[member.name], archive.extractfile(member).read()


def _examples(images: Iterator[tuple[str, str, bytes]], count: Callable[[int], None]) -> Iterator:
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as stock

    not_rgb_jpeg = {*stock.CMYK_IMAGES, *stock.PNG_IMAGES}
    for name, synset, content in images:
        count(NUM_IMAGES)
        if name in not_rgb_jpeg:
            content = _rgb_jpeg(content)
        yield name, {'file_name': name, 'image': io.BytesIO(content), 'label': synset}


def _rgb_jpeg(content: bytes) -> bytes:
    from metasemi_jax.data.images.decode import open_image

    file = io.BytesIO()
    open_image(io.BytesIO(content)).convert('RGB').save(file, 'JPEG', quality=JPEG_QUALITY)
    return file.getvalue()
