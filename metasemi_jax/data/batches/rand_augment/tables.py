"""Pillow's pointwise operations as tables of 256 levels: uint8 [256] for all channels, or [C, 256].

A table costs as much as one row of a small image, so that all operations of an image become one look-up.
"""

import jax.numpy as jnp
from jax import Array

from .blending import blend
from .lookups import count_levels, look_up
from .rounding import autocontrast_shortfalls


def levels() -> Array:
    """The identity: int32 [256]."""
    return jnp.arange(256, dtype=jnp.int32)


def posterize(bits: Array) -> Array:
    """The highest `bits` (1 to 8) bits of each level."""
    dropped = jnp.int32(8) - jnp.asarray(bits).astype(jnp.int32)
    return ((levels() >> dropped) << dropped).astype(jnp.uint8)


def solarize(threshold: Array) -> Array:
    """255 - v from `threshold` on, v below; it may have a fraction."""
    inverted = levels().astype(jnp.float32) >= threshold
    return jnp.where(inverted, 255 - levels(), levels()).astype(jnp.uint8)


def blended(degenerate: Array, factor: Array) -> Array:
    """`blend` of the level `degenerate` with each level."""
    return blend(degenerate, levels(), factor)


def autocontrast(image: Array) -> Array:
    """[C, 256]: the darkest level of each channel becomes 0, the brightest 255."""
    low = jnp.min(image, (0, 1)).astype(jnp.int32)[:, None]
    spread = jnp.max(image, (0, 1)).astype(jnp.int32)[:, None] - low
    above = 255 * jnp.maximum(levels() - low, 0)
    divisor = jnp.maximum(spread, 1)
    level = above // divisor
    level = jnp.minimum(level - _falls_short(low, spread, level, above % divisor), 255)
    return jnp.where(spread > 0, level, levels()).astype(jnp.uint8)


def _falls_short(low: Array, spread: Array, level: Array, remainder: Array) -> Array:
    """1 where Pillow's float64 loses a level, else 0; see `Shortfalls`."""
    short, first, divisor = map(jnp.asarray, autocontrast_shortfalls())
    part = level * divisor[spread] // 255  # j of an exact level
    exact = (remainder == 0) & (part >= 1) & (level <= 255)
    start = first[spread] + low * divisor[spread]
    # The cases of a spread and lowest level are in two rows: few rows to take, where single cases are many.
    cases = short[(start >> 8) + jnp.arange(2, dtype=jnp.int32)].reshape(-1, 512)
    place = jnp.where(exact, (start & 255) + part - 1, 0)
    return jnp.where(exact, look_up(cases, place.T).T, 0).astype(jnp.int32)


def equalize(image: Array) -> Array:
    """[C, 256]: levels spread so that each is about as frequent as any other."""
    pixels = image.reshape(-1, image.shape[-1])
    counts = count_levels(pixels)
    below = jnp.cumsum(counts, 1, dtype=jnp.int32) - counts  # how many are darker than each level
    top = jnp.max(pixels, 0).astype(jnp.int32)
    step = jnp.take_along_axis(below, top[:, None], 1) // 255
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, levels()).astype(jnp.uint8)
