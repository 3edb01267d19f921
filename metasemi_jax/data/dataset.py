"""What every source returns."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A training and a test split in memory, or mapped into it."""

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
