"""Data sets of which only the shapes are known: enough to compile a step."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.paths import user_path
from metasemi_jax.data.sources.registry import IMAGENET
from metasemi_jax.data.sources.stl10_folds import FOLDS
from metasemi_jax.data.splits import Split, draw_split
from metasemi_jax.errors import UserError
from metasemi_jax.training.experiment_data import choose_split, load_data


class Form(NamedTuple):
    """Counts and shape of a data set."""

    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int  # unlabeled ones included
    num_test: int
    num_unlabeled: int = 0  # of `num_train`, the last ones


# ImageNet's images have the size that the config gives them.
FORMS = {
    'svhn_cropped': Form((32, 32, 3), 10, 73_257, 26_032),
    'cifar10': Form((32, 32, 3), 10, 50_000, 10_000),
    'cifar100': Form((32, 32, 3), 100, 50_000, 10_000),
    'mnist': Form((28, 28, 1), 10, 60_000, 10_000),
    'fashion_mnist': Form((28, 28, 1), 10, 60_000, 10_000),
    'stl10': Form((96, 96, 3), 10, 105_000, 8_000, 100_000),
    IMAGENET: Form((0, 0, 3), 1000, 1_281_167, 50_000),
}
# Labeled images that the published lists name.
LISTED = {'10percent.txt': 128_116, '1percent.txt': 12_811} | dict.fromkeys(FOLDS, 1000)


class AbsentImages(StoredImages):
    """Images that would be on disk; black."""

    def __init__(self, count: int, shape: tuple[int, int, int]):
        super().__init__(None, count, shape[0], colour=shape[2] == 3)

    def decode(self, i: int) -> np.ndarray:
        """Zeros [H, W, C]."""
        return np.zeros(self.shape[1:], np.uint8)

    def decode_crop(self, i: int, *args: Any, **kwargs: Any) -> np.ndarray:
        """Zeros [H, W, C]."""
        return self.decode(i)


def data_of(config: Any) -> tuple[Dataset, Split]:
    """The data set of `config` by its shapes, or itself where no table knows it; and its split.

    Raises:
      UserError: own images, digits or a split file that cannot be had; numbers that do not fit the data.
    """
    name = config.data.name
    if name not in FORMS:
        dataset = load_data(config)
        return dataset, choose_split(config, dataset)
    dataset = _dataset(config, FORMS[name])
    named = None
    if config.data.split_file:
        # Which images they are does not matter here; every class is among the first of them.
        named = dataset.train_ids[: _count_listed(config.data.split_file)].tolist()
    split = draw_split(
        dataset,
        num_labels=config.data.num_labels,
        num_validation=config.data.num_validation,
        seed=config.seed,
        labeled_ids=named,
    )
    return dataset, split


def _dataset(config: Any, form: Form) -> Dataset:
    height, width, channels = form.image_shape
    shape = (height or config.data.image_size, width or config.data.image_size, channels)
    needed = form.num_train * int(np.prod(shape))
    on_disk = (
        config.data.name == IMAGENET or config.data.crop == 'resized' or needed > config.data.memory_budget
    )

    def images(count: int) -> Any:
        # One byte for all of them.
        return AbsentImages(count, shape) if on_disk else np.broadcast_to(np.uint8(0), (count, *shape))

    labels = np.arange(form.num_train, dtype=np.int32) % form.num_classes
    labels[form.num_train - form.num_unlabeled :] = -1
    return Dataset(
        images(form.num_train),
        labels,
        np.char.zfill(np.arange(form.num_train).astype(str), 7),
        images(form.num_test),
        np.arange(form.num_test, dtype=np.int32) % form.num_classes,
        tuple(map(str, range(form.num_classes))),
    )


def _count_listed(split_file: str) -> int:
    if split_file in LISTED:
        return LISTED[split_file]
    path = Path(user_path(split_file))
    if not path.is_file():
        raise UserError(f'data.split_file={split_file} is not there; name a file, or leave the field empty')
    return len(path.read_text(encoding='utf-8').split())
