"""Look-ups by computed places: gathers, and on TPUs matrix products.

A TPU gathers one number at a time. One-hot rows select the same numbers in its matrix units. Every product
here has one term that is not 0, or counts in float32, and bfloat16 holds 0 to 255: the results are exact.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

MAX_STRIP = 1 << 15  # pixels of an image in memory at once; 32 rows of results of a 32×32 image
DIGITS = 16  # a level is high·16 + low: two one-hot rows of 16 instead of one of 256


def look_up(table: Array, places: Array) -> Array:
    """table[c, places[..., c]]: `table` uint8 [C, N], N a multiple of 16; `places` integers [..., C]."""
    return jax.lax.platform_dependent(table, places, tpu=look_up_by_products, default=look_up_by_gather)


def look_up_by_gather(table: Array, places: Array) -> Array:
    """`look_up` on CPUs and GPUs."""
    channels, size = table.shape
    place = places.astype(jnp.int32) + size * jnp.arange(channels, dtype=jnp.int32)
    return table.reshape(-1).at[place].get(mode='promise_in_bounds')


def look_up_by_products(table: Array, places: Array) -> Array:
    """`look_up` on TPUs."""
    channels, size = table.shape
    high, low = _one_hot(places >> 4, size // DIGITS), _one_hot(places & (DIGITS - 1), DIGITS)
    squares = table.reshape(channels, -1, DIGITS).astype(jnp.bfloat16)
    rows = jnp.einsum('...ch,chl->...cl', high, squares, preferred_element_type=jnp.bfloat16)
    return jnp.sum(rows * low, -1, dtype=jnp.bfloat16).astype(table.dtype)


def take_pixels(image: Array, y: Array, x: Array) -> Array:
    """image[y, x]: `image` uint8 [H, W, C], `y` and `x` int32 [h, w] within it."""
    return jax.lax.platform_dependent(image, y, x, tpu=take_by_products, default=take_by_gather)


def take_by_gather(image: Array, y: Array, x: Array) -> Array:
    """`take_pixels` on CPUs and GPUs."""
    place = y * image.shape[1] + x
    return image.reshape(-1, image.shape[-1]).at[place].get(mode='promise_in_bounds')


def take_by_products(image: Array, y: Array, x: Array) -> Array:
    """`take_pixels` on TPUs."""
    return weighted_pixels(image.astype(jnp.bfloat16), y, x, _one_hot).astype(image.dtype)


def weighted_pixels(image: Array, y: Array, x: Array, weights: Callable[[Array, int], Array]) -> Array:
    """Sums over all pixels, each weighted by its row and its column, as matrix products: [h, w, C].

    Args:
      image: floats [H, W, C].
      y, x: the place [h, w] of each result.
      weights: (y or x [...], size) -> floats [..., size]: the weight of each row or column.
    """
    height, width, _ = image.shape

    def row_of_results(at: tuple[Array, Array]) -> Array:
        of_rows, of_columns = weights(at[0], height), weights(at[1], width)
        strips = jnp.einsum('wx,yxc->wcy', of_columns, image, precision='highest')
        return jnp.sum(strips * of_rows[:, None], -1, dtype=image.dtype)

    rows_at_once = max(1, MAX_STRIP // (height * y.shape[1]))
    return jax.lax.map(row_of_results, (y, x), batch_size=min(rows_at_once, len(y)))


def count_levels(pixels: Array) -> Array:
    """How many of uint8 [N, C] have each level: int32 [C, 256]."""
    return jax.lax.platform_dependent(pixels, tpu=count_by_products, default=count_by_scatter)


def count_by_scatter(pixels: Array) -> Array:
    """`count_levels` on CPUs and GPUs."""
    channels = pixels.shape[-1]
    place = pixels.astype(jnp.int32) + 256 * jnp.arange(channels, dtype=jnp.int32)
    counts = jnp.zeros(256 * channels, jnp.int32).at[place].add(1, mode='promise_in_bounds')
    return counts.reshape(channels, 256)


def count_by_products(pixels: Array) -> Array:
    """`count_levels` on TPUs."""
    high, low = _one_hot(pixels >> 4, DIGITS), _one_hot(pixels & (DIGITS - 1), DIGITS)
    counts = jnp.einsum('nch,ncl->chl', high, low, preferred_element_type=jnp.float32)
    return counts.astype(jnp.int32).reshape(-1, 256)


def _one_hot(number: Array, size: int) -> Array:
    return (number[..., None] == jnp.arange(size, dtype=number.dtype)).astype(jnp.bfloat16)
