"""Pillow's `ImageEnhance`: the mixture of an image with a degenerate one."""

import jax
import jax.numpy as jnp
from jax import Array

HIGH_BITS = 0xFFFFF000


def blend(degenerate: Array, image: Array, factor: Array) -> Array:
    """(1 - factor)·degenerate + factor·image, cut to integers as Pillow does: uint8.

    Pillow rounds the product to float32, then the sum. A compiler may fuse the two and round once. Here the
    product is a sum of two exact products (of 12 and 12 bits of the factor, and 9 of the difference), so that
    fused or not, each sum is rounded once.

    Args:
      degenerate, image: integers 0 to 255, of one shape or broadcast.
      factor: float32 scalar, at least 0. 1 gives the image; more extrapolates.
    """
    factor = jnp.asarray(factor, jnp.float32)
    bits = jax.lax.bitcast_convert_type(factor, jnp.uint32) & jnp.uint32(HIGH_BITS)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    low = factor - high
    start = degenerate.astype(jnp.float32)
    change = image.astype(jnp.float32) - start
    return jnp.clip(start + (high * change + low * change), 0, 255).astype(jnp.uint8)


def gray(image: Array) -> Array:
    """Luma, int32 [H, W], of RGB [H, W, 3]; of one channel that channel."""
    if image.shape[-1] == 1:
        return image[..., 0].astype(jnp.int32)
    red, green, blue = (image[..., c].astype(jnp.int32) for c in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def mean_gray(image: Array) -> Array:
    """The mean of `gray` over the image, rounded: int32 scalar. Exact up to four million pixels."""
    count = image.shape[0] * image.shape[1]
    return (2 * jnp.sum(gray(image), dtype=jnp.int32) + count) // (2 * count)


def smooth(image: Array) -> Array:
    """`ImageFilter.SMOOTH`: int32 [H, W, C]; the centre counts 5 of 13, the outermost pixels stay.

    Pillow adds float32 products, but no sum of them comes nearer than 1/26 to a half.
    """
    pixels = image.astype(jnp.int32)
    height, width, _ = pixels.shape
    if min(height, width) < 3:
        return pixels
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * pixels[1:-1, 1:-1]
    inner = (2 * total + 13) // 26
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    border = (y == 0) | (y == height - 1) | (x == 0) | (x == width - 1)
    return jnp.where(border, pixels, jnp.pad(inner, ((1, 1), (1, 1), (0, 0))))
