"""How each dataset of TFDS is read from its original files."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metasemi_jax.data.sources.archives import (
    CIFAR10,
    CIFAR100,
    ArchiveSplit,
    Cifar,
    read_cifar,
    read_mnist,
    read_svhn,
)
from metasemi_jax.data.sources.stl10_archive import ARCHIVE, keep_folds, read_stl10

Downloader = Callable[[str], Path]  # file name -> local path
Contents = tuple[dict[str, ArchiveSplit], dict[str, list[str]]]  # by split; class names by TFDS feature


class TfdsRecipe(NamedTuple):
    """How one dataset is read from its original files."""

    version: str  # of the stock builder
    files: tuple[str, ...]
    id_digits: int  # of positions in an id
    read: Callable[[Downloader, Path], Contents]  # (downloader, root of TFDS's data)
    room: str  # disk space for preparing, for people
    training: tuple[str, ...] = ('train',)  # splits whose images are trained on, in the order of their names
    has_ids: bool = True  # whether records hold ids; otherwise TFDS's order gives them, see `stored_order`


def _svhn(download: Downloader, root: Path) -> Contents:
    del root
    # The stock builder also takes `extra`, 1.3 GB that no experiment here reads.
    return {split: read_svhn(download(f'{split}_32x32.mat')) for split in ('train', 'test')}, {}


def _cifar(file: str, layout: Cifar) -> TfdsRecipe:
    def read(download: Downloader, root: Path) -> Contents:
        del root
        return read_cifar(download(file), layout)

    return TfdsRecipe('3.0.2', (file,), 5, read, 'about 1 GB')


MNIST_FILES = tuple(
    f'{part}-{kind}-ubyte.gz' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')
)


def _mnist(download: Downloader, root: Path) -> Contents:
    del root
    train, train_labels, test, test_labels = map(download, MNIST_FILES)
    return {'train': read_mnist(train, train_labels), 'test': read_mnist(test, test_labels)}, {}


def _stl10(download: Downloader, root: Path) -> Contents:
    content = read_stl10(download(ARCHIVE))
    keep_folds(root, content.folds)
    return content.splits, {'label': content.class_names}


RECIPES = {
    'svhn_cropped': TfdsRecipe('3.1.0', ('train_32x32.mat', 'test_32x32.mat'), 6, _svhn, 'about 1 GB'),
    'cifar10': _cifar('cifar-10-binary.tar.gz', CIFAR10),
    'cifar100': _cifar('cifar-100-binary.tar.gz', CIFAR100),
    'mnist': TfdsRecipe('3.0.1', MNIST_FILES, 5, _mnist, 'about 300 MB', has_ids=False),
    'fashion_mnist': TfdsRecipe('3.0.1', MNIST_FILES, 5, _mnist, 'about 300 MB', has_ids=False),
    'stl10': TfdsRecipe(
        '1.0.0', (ARCHIVE,), 6, _stl10, 'about 12 GB', ('train', 'unlabelled'), has_ids=False
    ),
}
