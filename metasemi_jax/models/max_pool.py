"""Max pool, with a gradient that fuses with what is around it."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Sides = tuple[int, int]  # height and width


def max_pool(x: Array, size: int, *, stride: int, padding: int = 0) -> Array:
    """The largest value of each `size` × `size` window: [B, H, W, C] -> [B, H', W', C].

    Windows that would go beyond `padding` are left out. Of equal values the gradient goes to the first in
    reading order, and a NaN is the largest, as in PyTorch and `flax.linen.max_pool`.
    """
    # A TPU has instructions for the windows and their gradient: ResNet-18's step on v5e:4x4 moves 9.3 GB
    # instead of 13.0. Elsewhere XLA makes index arrays and a scatter of the gradient (71 ms against 4 for
    # ConvLarge's first pool, batch 32, on 2 CPU cores; 14.0 GB against 9.0 for its step on an H100), while
    # comparisons of slices fuse with what is around.
    windows = functools.partial(_largest_of_windows, size=size, stride=stride, padding=padding)
    slices = functools.partial(_largest_of_slices, size=size, stride=stride, padding=padding)
    return jax.lax.platform_dependent(x, tpu=windows, default=slices)


def _largest_of_windows(x: Array, *, size: int, stride: int, padding: int) -> Array:
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding), (padding, padding)))


def _largest_of_slices(x: Array, *, size: int, stride: int, padding: int) -> Array:
    low = jnp.asarray(-jnp.inf, x.dtype)
    x = jax.lax.pad(x, low, [(0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0)])
    if size <= stride:
        return _largest(x, (size, size), (stride, stride))
    # Windows that overlap: within each row first, which makes the first in reading order win.
    return _largest(_largest(x, (1, size), (1, stride)), (size, 1), (stride, 1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(x: Array, size: Sides, stride: Sides) -> Array:
    return _largest_and_place(x, size, stride)[0]


def _largest_and_place(x: Array, size: Sides, stride: Sides) -> tuple[Array, Array]:
    """The largest value of each window, and its place there in reading order, from 0."""
    height, width = ((n - s) // t * t + 1 for n, s, t in zip(x.shape[1:3], size, stride, strict=True))
    slices = [
        x[:, i : i + height : stride[0], j : j + width : stride[1]]
        for i, j in itertools.product(*map(range, size))
    ]
    largest, place = slices[0], jnp.zeros(slices[0].shape, _place_dtype(size))
    for i, pixels in enumerate(slices[1:], start=1):
        larger = (pixels > largest) | jnp.isnan(pixels)
        largest, place = jnp.where(larger, pixels, largest), jnp.where(larger, place.dtype.type(i), place)
    return largest, place


@_largest.defjvp
def _tangent_of_largest(
    size: Sides, stride: Sides, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    # The gradient of a slice with a stride is a pad with holes. To fill those of ConvLarge's first pool took
    # an H100 1.2 ms of a step, at a twentieth of its memory's speed. So the tangent is cut into tiles of
    # `stride` pixels, whose gradient is a selection. A window covers `reach` tiles, the last perhaps in part.
    # The estimator `exact`, a gradient of a gradient, still fills holes: were `largest` to follow this rule
    # again, XLA would compute a convolution twice.
    (x,), (tangent,) = primals, tangents
    largest, place = _largest_and_place(x, size, stride)
    count, height, width, channels = largest.shape
    reach = [-(-s // t) for s, t in zip(size, stride, strict=True)]
    rows, columns = height + reach[0] - 1, width + reach[1] - 1
    zero = jnp.zeros((), tangent.dtype)
    pads = [(0, n * t - m, 0) for n, t, m in zip((rows, columns), stride, x.shape[1:3], strict=True)]
    tiles = jax.lax.pad(tangent, zero, [(0, 0, 0), *pads, (0, 0, 0)])
    tiles = tiles.reshape(count, rows, stride[0], columns, stride[1], channels)
    place = place[:, :, None, :, None]
    total = None
    for i, j in itertools.product(*map(range, reach)):
        here = place == _places((i, j), size, stride)[:, None, :, None]
        chosen = jnp.where(here, tiles[:, i : i + height, :, j : j + width], zero)
        part = jnp.sum(chosen, (2, 4), dtype=tangent.dtype)
        total = part if total is None else total + part
    return largest, total


def _places(tile: Sides, size: Sides, stride: Sides) -> np.ndarray:
    """The place in its window of each pixel of the `tile`-th tile; beyond the window one that it has not."""
    i, j = np.ogrid[: stride[0], : stride[1]]
    i, j = i + tile[0] * stride[0], j + tile[1] * stride[1]
    places = np.where((i < size[0]) & (j < size[1]), i * size[1] + j, math.prod(size))
    return places.astype(_place_dtype(size))


def _place_dtype(size: Sides) -> np.dtype:
    return np.min_scalar_type(math.prod(size))
