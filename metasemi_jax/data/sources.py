"""Where images come from: one function for each dataset, by the name in `config.data.name`."""

from typing import NamedTuple

import numpy as np

from metasemi_jax.errors import UserError


class Dataset(NamedTuple):
    """A training and a test split in memory."""

    train_images: np.ndarray  # uint8 [N, H, W, C]
    train_labels: np.ndarray  # int32 [N]
    train_ids: np.ndarray  # str [N], unique, stable between versions and orders of the data
    test_images: np.ndarray  # uint8 [M, H, W, C]
    test_labels: np.ndarray  # int32 [M]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return self.train_images.shape[1:]


def load_dataset(name: str) -> Dataset:
    """The dataset called `name`.

    Raises:
      UserError: an unknown name.
    """
    if name not in SOURCES:
        known = ', '.join(sorted(SOURCES))
        raise UserError(f"data.name '{name}': there is no source for this dataset; choose one of {known}")
    return SOURCES[name]()


def _digits() -> Dataset:
    """scikit-learn's `load_digits`: 1,797 scanned digits, 8×8, grey; always the same 500 to test on."""
    # Imported here: scikit-learn takes a second to load and serves this dataset alone.
    from sklearn.datasets import load_digits

    data = load_digits()
    # 17 grey levels, spread over uint8 so that every dataset has the same form.
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = data.target.astype(np.int32)
    ids = np.array([f'{i:04d}' for i in range(len(labels))])
    # The file is ordered by writer: an ordered split would test on other hands than it trains on.
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = np.sort(order[:500]), np.sort(order[500:])
    names = tuple(str(name) for name in data.target_names)
    return Dataset(images[train], labels[train], ids[train], images[test], labels[test], names)


def _digits_dev() -> Dataset:
    """`digits` without its test images: 400 training images stand in for them, to choose settings by."""
    full = _digits()
    order = np.random.default_rng(1).permutation(len(full.train_labels))
    test, train = np.sort(order[:400]), np.sort(order[400:])
    return Dataset(
        full.train_images[train],
        full.train_labels[train],
        full.train_ids[train],
        full.train_images[test],
        full.train_labels[test],
        full.class_names,
    )


SOURCES = {'digits': _digits, 'digits_dev': _digits_dev}
