"""The dataset that every source returns, and the specification of a network's input."""

from typing import NamedTuple

import numpy as np

from metasemi_jax.data.images.stored import StoredImages

Images = np.ndarray | StoredImages


class Dataset(NamedTuple):
    """Training, validation and test images: in memory, memory-mapped, or lazy."""

    train_images: Images  # uint8 [N, H, W, C]; or features, float32 [N, D], in memory
    train_labels: np.ndarray  # int32 [N]; -1 where the label is not known
    train_ids: np.ndarray  # str [N], unique, stable between versions and orders of the data
    test_images: Images | None  # uint8 [M, H, W, C]; None where there is no test set
    test_labels: np.ndarray | None  # int32 [M]
    class_names: tuple[str, ...]
    val_images: Images | None = None  # uint8 [V, H, W, C], where the source has a validation set
    val_labels: np.ndarray | None = None  # int32 [V]

    # str [M] and [V], unique names for people where the source has any
    test_ids: np.ndarray | None = None
    val_ids: np.ndarray | None = None

    # Hashes of the training images, and of the validation and test images, that do not depend on their place;
    # '' if the ids identify the images, as in archives that are verified by a checksum.
    content: str = ''
    judged_content: str = ''

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """[H, W, C] of one image, [D] of features."""
        return self.train_images.shape[1:]

    @property
    def has_features(self) -> bool:
        """Whether the examples are features and no images."""
        return len(self.image_shape) == 1


class InputSpec(NamedTuple):
    """What a network is fed: uint8 images of one shape, each channel scaled to (x/255 - mean)/std.

    Features are fed as they are: they come standardised.
    """

    image_shape: tuple[int, ...]  # [H, W, C]; [D] of features
    mean: tuple[float, ...]  # [C], of pixels scaled to 0..1; () of features
    std: tuple[float, ...]  # [C], or ()
