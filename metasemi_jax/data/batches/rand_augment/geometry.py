"""Pillow's affine transformations with the nearest pixel, in the same fixed point.

Coefficients are int32 [6], (a, b, c, d, e, f) in units of 2**-16: the pixel at (x, y) takes its value from
the source's at (floor(a·x + b·y + c), floor(d·x + e·y + f)). Sizes up to 2**14 pixels.
"""

import jax.numpy as jnp
from jax import Array

from .lookups import take_pixels
from .sines import cos_sin, offset, to_16_bits

ONE, HALF = 1 << 16, 1 << 15


def transform(image: Array, coefficients: Array) -> Array:
    """`image` [H, W, C] transformed; 0 where the source has no pixel."""
    height, width, _ = image.shape
    a, b, c, d, e, f = coefficients
    y, x = jnp.arange(height, dtype=jnp.int32)[:, None], jnp.arange(width, dtype=jnp.int32)
    from_x, from_y = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    moved = take_pixels(image, jnp.where(inside, from_y, 0), jnp.where(inside, from_x, 0))
    return jnp.where(inside[..., None], moved, jnp.zeros((), image.dtype))


def shear(x: Array, y: Array) -> Array:
    """The source of pixel (i, j) lies at (i + x·j, j + y·i); one of the float32 x and y is 0."""
    return _stack(ONE, _fixed(x), HALF + _fixed(x / 2), _fixed(y), ONE, HALF + _fixed(y / 2))


def translate(x: Array, y: Array) -> Array:
    """The source of pixel (i, j) is the nearest to (i + x, j + y); x and y are float32 pixels."""
    return _stack(ONE, 0, HALF + ONE * nearest(x), 0, ONE, HALF + ONE * nearest(y))


def rotate(degrees: Array, height: int, width: int) -> Array:
    """Counterclockwise about the centre; see `cos_sin` for the angles."""
    cosine, sine = cos_sin(nearest(degrees * 4096))
    c = offset(cosine, 1 - width, sine, height - 1, width)
    f = offset(sine, 1 - width, cosine, 1 - height, height)
    cos, sin = to_16_bits(cosine), to_16_bits(sine)
    return _stack(cos, -sin, c, sin, cos, f)


def nearest(x: Array) -> Array:
    """floor(x + ½) of a float32, int32. The sum would be rounded; this is exact."""
    x = jnp.asarray(x, jnp.float32)
    below = jnp.floor(x)
    return below.astype(jnp.int32) + (x - below >= 0.5).astype(jnp.int32)


def _fixed(x: Array) -> Array:
    return nearest(jnp.asarray(x, jnp.float32) * ONE)


def _stack(*coefficients: Array | int) -> Array:
    return jnp.stack([jnp.asarray(coefficient, jnp.int32) for coefficient in coefficients])
