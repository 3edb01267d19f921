"""The operations of both variants, one image at a time: uint8 [H, W, C], C 1 or 3, and a float32 scalar.

Each equals Pillow's of modes L and RGB. Of a grey image Pillow has no colour to change: `color` leaves it,
and `contrast` takes the mean of its one channel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from . import geometry, tables
from .blending import blend, gray, mean_gray, smooth

Array = jax.Array


def identity(image: Array, _: Array) -> Array:
    """The image."""
    return image


def autocontrast(image: Array, _: Array) -> Array:
    """`ImageOps.autocontrast`."""
    return tables.apply_table(image, tables.autocontrast(image))


def equalize(image: Array, _: Array) -> Array:
    """`ImageOps.equalize`."""
    return tables.apply_table(image, tables.equalize(image))


def posterize(image: Array, bits: Array) -> Array:
    """`ImageOps.posterize`; the fraction of `bits` is cut off."""
    return tables.apply_table(image, tables.posterize(bits))


def solarize(image: Array, threshold: Array) -> Array:
    """`ImageOps.solarize`."""
    return tables.apply_table(image, tables.solarize(threshold))


def brightness(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Brightness`."""
    return tables.apply_table(image, tables.blended(jnp.int32(0), factor))


def contrast(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Contrast`."""
    return tables.apply_table(image, tables.blended(mean_gray(image), factor))


def color(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Color`."""
    return blend(gray(image)[..., None], image, factor)


def sharpness(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Sharpness`."""
    return blend(smooth(image), image, factor)


def rotate(image: Array, degrees: Array) -> Array:
    """`Image.rotate`, counterclockwise, at most 45 degrees either way and to 1/4096 of one."""
    return geometry.transform(image, geometry.rotate(degrees, *image.shape[:2]))


def shear_x(image: Array, shear: Array) -> Array:
    """`Image.transform` with (1, shear, 0, 0, 1, 0)."""
    return geometry.transform(image, geometry.shear(shear, 0.0))


def shear_y(image: Array, shear: Array) -> Array:
    """`Image.transform` with (1, 0, 0, shear, 1, 0)."""
    return geometry.transform(image, geometry.shear(0.0, shear))


def translate_x(image: Array, pixels: Array) -> Array:
    """`Image.transform` with (1, 0, pixels, 0, 1, 0): more than 0 moves the picture to the left."""
    return geometry.transform(image, geometry.translate(pixels, 0.0))


def translate_y(image: Array, pixels: Array) -> Array:
    """`Image.transform` with (1, 0, 0, 0, 1, pixels): more than 0 moves the picture up."""
    return geometry.transform(image, geometry.translate(0.0, pixels))


OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    operation.__name__: operation
    for operation in (
        *(identity, autocontrast, equalize, posterize, solarize, brightness, contrast),
        *(color, sharpness, rotate, shear_x, shear_y, translate_x, translate_y),
    )
}
CODES = {name: code for code, name in enumerate(OPERATIONS)}


def is_one_of(operation: Array, names: tuple[str, ...]) -> Array:
    """Whether each of `operation` int32, numbers of OPERATIONS, is one of `names`."""
    return jnp.asarray([name in names for name in OPERATIONS])[operation]
