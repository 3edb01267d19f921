"""Readers of the original archives of SVHN, CIFAR and MNIST; a UserError names a file that is none."""

import gzip
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.errors import as_user_error


class ArchiveSplit(NamedTuple):
    """One split, in the order of its archive."""

    images: Any  # uint8 [N, H, W, C], or a sized iterable of [H, W, C]
    labels: dict[str, np.ndarray]  # int [N] by TFDS feature name; 'label' is the class, -1 where unknown


class Cifar(NamedTuple):
    """The layout of a CIFAR archive."""

    folder: str
    files: dict[str, tuple[str, ...]]  # split -> members with its images
    label_names: dict[str, str]  # TFDS feature -> member that names its classes, in the order of the bytes


CIFAR10 = Cifar(
    'cifar-10-batches-bin',
    {'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)), 'test': ('test_batch.bin',)},
    {'label': 'batches.meta.txt'},
)
CIFAR100 = Cifar(
    'cifar-100-binary',
    {'train': ('train.bin',), 'test': ('test.bin',)},
    {'coarse_label': 'coarse_label_names.txt', 'label': 'fine_label_names.txt'},
)


def read_svhn(path: Path) -> ArchiveSplit:
    """Read a file of the cropped SVHN set, `train_32x32.mat` or `test_32x32.mat`."""
    # Imported here: SciPy's reader takes a while to load and serves the first use alone.
    from scipy.io import loadmat

    with unreadable(path):
        content = loadmat(path, variable_names=['X', 'y'])
        # In the file the examples are the last axis, of X [32, 32, 3, N] and of y [N, 1]; 10 stands for 0.
        images, labels = np.moveaxis(content['X'], -1, 0), content['y'].reshape(-1)
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise ValueError(f'{images.dtype} images of shape {images.shape} with {len(labels)} labels')
        if not len(labels) or labels.min() < 1 or labels.max() > 10:
            raise ValueError('labels that are not 1 to 10')
    return ArchiveSplit(images, {'label': labels.astype(np.int64) % 10})


def read_cifar(path: Path, layout: Cifar) -> tuple[dict[str, ArchiveSplit], dict[str, list[str]]]:
    """Read `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz` without unpacking it.

    Returns:
      The splits by name, and the class names by TFDS feature.
    """
    with unreadable(path), tarfile.open(path, 'r:gz') as archive:
        # In one pass: to go back in a gzip stream is to unpack it again from the start.
        wanted = {name for files in layout.files.values() for name in files} | {*layout.label_names.values()}
        members = {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.isfile() and Path(member.name).name in wanted
        }
        names = {
            feature: [line for line in members[file].decode().split('\n') if line]
            for feature, file in layout.label_names.items()
        }
        splits = {
            split: _cifar_split(b''.join(members[file] for file in files), tuple(names))
            for split, files in layout.files.items()
        }
    return splits, names


def read_mnist(images_path: Path, labels_path: Path) -> ArchiveSplit:
    """Read a pair of `...-images-idx3-ubyte.gz` and `...-labels-idx1-ubyte.gz`: MNIST's, or like it."""
    with unreadable(images_path):
        images = _read_idx(images_path, num_axes=3)[..., None]
    with unreadable(labels_path):
        labels = _read_idx(labels_path, num_axes=1)
        if len(labels) != len(images) or not len(labels) or labels.max() > 9:
            raise ValueError(f'{len(labels)} labels for {len(images)} images, or labels that are not 0 to 9')
    return ArchiveSplit(images, {'label': labels.astype(np.int64)})


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    """uint8 values: the bytes 0, 0, 8 (unsigned bytes), number of axes; each axis in four; the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:4] != bytes([0, 0, 8, num_axes]):
        raise ValueError(f'it begins with {content[:4]!r}')
    values = 4 + 4 * num_axes
    shape = np.frombuffer(content[4:values], '>u4')
    return np.frombuffer(content[values:], np.uint8).reshape(shape)


def _cifar_split(content: bytes, features: tuple[str, ...]) -> ArchiveSplit:
    # An example is one byte for each label, then 32×32 red, green and blue ones.
    rows = np.frombuffer(content, np.uint8).reshape(-1, len(features) + 3 * 32 * 32)
    if not len(rows):
        raise ValueError('no images')
    images = rows[:, len(features) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArchiveSplit(images, {name: rows[:, i].astype(np.int64) for i, name in enumerate(features)})


def unreadable(path: Path) -> AbstractContextManager[None]:
    """Make whatever fails in the block a UserError that names the archive."""
    # SciPy, tarfile and zlib fail on damaged bytes in a dozen ways.
    return as_user_error(
        Exception,
        lambda error: (
            f'{path} cannot be read as the archive its name says '
            f'({type(error).__name__}: {" ".join(str(error).split())}); get it again'
        ),
    )
