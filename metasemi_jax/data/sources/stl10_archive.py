"""`stl10_binary.tar.gz`: its images, a few at a time, and its ten predefined folds."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metasemi_jax.data.sources.archives import ArchiveSplit, unreadable
from metasemi_jax.files import write_atomically

ARCHIVE = 'stl10_binary.tar.gz'
SIDE, CHANNELS = 96, 3
IMAGE_BYTES = CHANNELS * SIDE * SIDE
UNLABELED = 'unlabeled_X.bin'  # 2.8 GB
FOLDS = tuple(f'fold_{i}.txt' for i in range(10))


class Stl10(NamedTuple):
    """Contents of the archive."""

    splits: dict[str, ArchiveSplit]  # by TFDS's names; the images of 'unlabelled' are read lazily
    class_names: list[str]
    folds: list[list[int]]  # for each fold, positions in the training images


class UnlabeledImages:
    """uint8 [96, 96, 3] images of the archive, in order; each loop unpacks the archive anew."""

    def __init__(self, path: Path, count: int):
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        with unreadable(self._path), tarfile.open(self._path, 'r:gz') as archive:
            member = next(member for member in archive if Path(member.name).name == UNLABELED)
            file = archive.extractfile(member)
            for _ in range(self._count):
                yield _images(file.read(IMAGE_BYTES))[0]


def read_stl10(path: Path) -> Stl10:
    """Read all but the unlabeled images, of which there may be more than fit into memory."""
    with unreadable(path), tarfile.open(path, 'r:gz') as archive:
        contents, sizes = {}, {}
        # In one pass: to go back in a gzip stream is to unpack it again from the start.
        for member in archive:
            name = Path(member.name).name
            sizes[name] = member.size
            if member.isfile() and name != UNLABELED:
                contents[name] = archive.extractfile(member).read()
        splits = {
            split: _labeled(contents[f'{split}_X.bin'], contents[f'{split}_y.bin'])
            for split in ('train', 'test')
        }
        if sizes[UNLABELED] % IMAGE_BYTES:
            raise ValueError(f'{UNLABELED} of {sizes[UNLABELED]} bytes')
        count = sizes[UNLABELED] // IMAGE_BYTES
        splits['unlabelled'] = ArchiveSplit(UnlabeledImages(path, count), {'label': np.full(count, -1)})
        names = contents['class_names.txt'].decode().split()
        lines = contents['fold_indices.txt'].decode().splitlines()
        folds = [[int(position) for position in line.split()] for line in lines if line.strip()]
        if len(folds) != len(FOLDS):
            raise ValueError(f'{len(folds)} folds')
    return Stl10(splits, names, folds)


def keep_folds(root: Path, folds: Sequence[Sequence[int]]) -> None:
    """Write a file for each fold."""
    folder = folds_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name, positions in zip(FOLDS, folds, strict=True):
        write_atomically(folder / name, ' '.join(map(str, positions)) + '\n')


def folds_folder(root: Path) -> Path:
    """Folder of these files below the root of TFDS's data."""
    return root / 'metasemi_jax' / 'stl10' / 'folds'


def _labeled(images: bytes, labels: bytes) -> ArchiveSplit:
    classes = np.frombuffer(labels, np.uint8).astype(np.int64) - 1
    pixels = _images(images)
    if len(pixels) != len(classes) or not len(classes) or classes.min() < 0 or classes.max() > 9:
        raise ValueError(f'{len(pixels)} images with {len(classes)} labels, or labels that are not 1 to 10')
    return ArchiveSplit(pixels, {'label': classes})


def _images(content: bytes) -> np.ndarray:
    # Each channel in MATLAB's order, column by column.
    return np.frombuffer(content, np.uint8).reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 3, 2, 1)
