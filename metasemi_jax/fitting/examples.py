"""From the arrays of a caller to what the network is fed: uint8 images, or standardised features."""

from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import StandardScaler

from metasemi_jax.data.sources.image_arrays import channels_first, resize_images

BRIGHT = 127  # integers of which none is larger are no pixels of 0 to 255


class ImageForm(NamedTuple):
    """How images become uint8 [N, H, W, C]; the same for those to train on and those to predict."""

    shape: tuple[int, ...]  # [H, W] or [H, W, C], as the caller has them
    low: float  # becomes 0
    high: float  # becomes 255
    size: int = 0  # side to resize to; 0 for none

    def convert(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] of numbers [N, H, W] or [N, H, W, C]; what lies beyond `low` and `high` is cut.

        Raises:
          ValueError: images of another shape.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(
                f'the images are of shape {list(images.shape[1:])}, those of fit were of {list(self.shape)}'
            )
        images = images if images.ndim == 4 else images[..., None]
        if images.dtype != np.uint8 or (self.low, self.high) != (0, 255):
            scaled = (images - self.low) * (255 / (self.high - self.low))
            images = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
        return resize_images(images, self.size)


class FeatureForm(NamedTuple):
    """How features become standardised float32 [N, D]."""

    scaler: StandardScaler

    def convert(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, D] of numbers [N, D]."""
        # Before it is narrowed: float32 has seven digits, and a feature may be large and vary little.
        return self.scaler.transform(features.astype(np.float64)).astype(np.float32)


def find_form(examples: np.ndarray) -> ImageForm | FeatureForm:
    """The form of `examples`, finite numbers [N, D], [N, H, W] or [N, H, W, C], all that is trained on.

    Integers of 0 to 255 of which one exceeds `BRIGHT`, and uint8, are pixels as they are; floats of 0 to 1 of
    which one exceeds a half are pixels over 255. Whatever else is stretched from its least to its largest
    value.

    Raises:
      ValueError: arrays of another number of axes, or images with their channels first.
    """
    if examples.ndim == 2:
        return FeatureForm(StandardScaler().fit(examples.astype(np.float64)))
    if examples.ndim not in (3, 4) or 0 in examples.shape:
        raise ValueError(
            f'X must be features [N, D] or images [N, H, W] or [N, H, W, C]; its shape is '
            f'{list(examples.shape)}'
        )
    if fault := channels_first('X', examples.shape):
        raise ValueError(fault)
    return ImageForm(examples.shape[1:], *_range(examples))


def _range(images: np.ndarray) -> tuple[float, float]:
    low, high = images.min(), images.max()
    integers = np.issubdtype(images.dtype, np.integer)
    if images.dtype == np.uint8 or (integers and low >= 0 and BRIGHT < high <= 255):
        return 0.0, 255.0
    if not integers and low >= 0 and 0.5 < high <= 1:
        return 0.0, 1.0
    low, high = float(low), float(high)
    return low, high if high > low else low + 1
