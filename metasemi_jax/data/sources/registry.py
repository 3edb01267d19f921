"""Loads a dataset by its name in `config.data.name`."""

import importlib.util
from pathlib import Path

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.sources.tfds_sources import TFDS_DATASETS, load_tfds
from metasemi_jax.errors import UserError

OWN_IMAGES = 'own_images'
IMAGENET = 'imagenet2012'


def load_dataset(
    name: str,
    *,
    data_dir: str = '',
    manual_dir: str = '',
    path: str = '',
    image_size: int = 0,
    memory_budget: int = 8_000_000_000,
    resize: int = 0,
    on_disk: bool = False,
) -> Dataset:
    """The dataset called `name`.

    Args:
      name: a key of `SOURCES`, one of `TFDS_DATASETS`, 'imagenet2012', or 'own_images'.
      data_dir, manual_dir: folders of the TFDS datasets, see `load_tfds`; the others ignore them.
      path, image_size, memory_budget, resize, on_disk: arguments of `load_own_images`. Of these
        ImageNet takes `image_size` and `resize`, and the other TFDS datasets `memory_budget` and `on_disk`.

    Raises:
      UserError: an unknown name, or data that cannot be had.
    """
    if name in SOURCES:
        return SOURCES[name]()
    if name in TFDS_DATASETS:
        return load_tfds(
            name, data_dir=data_dir, manual_dir=manual_dir, memory_budget=memory_budget, on_disk=on_disk
        )
    if name == IMAGENET:
        # Imported here, as TFDS is below.
        from metasemi_jax.data.sources.imagenet import load_imagenet

        return load_imagenet(data_dir=data_dir, manual_dir=manual_dir, image_size=image_size, resize=resize)
    if name == OWN_IMAGES:
        # Imported here: it loads Pillow, which serves this dataset alone.
        from metasemi_jax.data.sources.own_images import load_own_images

        return load_own_images(
            path, image_size=image_size, memory_budget=memory_budget, resize=resize, on_disk=on_disk
        )
    known = ', '.join(sorted((*SOURCES, *TFDS_DATASETS, IMAGENET, OWN_IMAGES)))
    raise UserError(f"data.name '{name}': there is no source for this dataset; choose one of {known}")


def _digits() -> Dataset:
    """scikit-learn's `load_digits`: 1,797 scanned digits, 8×8, grey; always the same 500 to test on."""
    # The file that `load_digits` reads: to import scikit-learn takes a second, a quarter of a start.
    folder = importlib.util.find_spec('sklearn').submodule_search_locations[0]
    rows = np.loadtxt(Path(folder, 'datasets', 'data', 'digits.csv.gz'), delimiter=',')
    # 17 grey levels, spread over uint8 so that every dataset has the same form.
    images = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = rows[:, -1].astype(np.int32)
    ids = np.array([f'{i:04d}' for i in range(len(labels))])
    names = tuple('0123456789')
    # The file is ordered by writer: without a shuffle, train and test writers would differ.
    return _with_test(images, labels, ids, names, count=500, seed=0)


def _digits_dev() -> Dataset:
    """`digits` without its test images: 400 training images stand in for them, to choose settings by."""
    full = _digits()
    train = full.train_images, full.train_labels, full.train_ids
    return _with_test(*train, full.class_names, count=400, seed=1)


def _with_test(
    images: np.ndarray, labels: np.ndarray, ids: np.ndarray, names: tuple[str, ...], *, count: int, seed: int
) -> Dataset:
    """A data set of which `count` images, drawn at random, are the test set."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.sort(order[:count]), np.sort(order[count:])
    kept = images[train], labels[train], ids[train]
    return Dataset(*kept, images[test], labels[test], names, test_ids=ids[test])


SOURCES = {'digits': _digits, 'digits_dev': _digits_dev}
