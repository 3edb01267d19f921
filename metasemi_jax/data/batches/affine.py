"""A strong view that keeps an image's meaning: turned, scaled, sheared, shifted; tone; a hole.

RandAugment's operations are for photographs: some of them invert or reduce colours. These few are mild enough
for writing, textures and photographs alike, work at any size from 8×8 on, and cost little on a CPU.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.data.batches.rand_augment.lookups import weighted_pixels

DEGREES = 25.0
ZOOM = 1.25  # largest factor, and its inverse the smallest
SHEAR = 0.25
SHIFT = 0.125  # of the side
TONE = 0.4  # contrast and brightness change by so much at most
HOLE = 0.5  # largest side of the hole, of the image's side


def affine_view(images: Array, key: Array, *, pad_mode: str = 'black') -> Array:
    """Each image [B, H, W, C], uint8, under an affine map, a change of tone and a hole of its own.

    Args:
      images: uint8 [B, H, W, C], any H and W.
      key: one key for all images; the draws are uniform, and independent for every image.
      pad_mode: what lies outside an image: 'black', or its 'reflect'ion.
    """
    keys = jax.random.split(key, 3)
    pixels = images.astype(float)
    pixels = _warp(pixels, keys[0], pad_mode)
    pixels = _cut(_retone(pixels, keys[1]), keys[2])
    return jnp.round(pixels).astype(images.dtype)


def _uniform(key: Array, count: int, *bounds: Any) -> list[Array]:
    draws = jax.random.uniform(key, (len(bounds), count), float, -1.0, 1.0)
    return [bound * draw for bound, draw in zip(bounds, draws, strict=True)]


def _warp(pixels: Array, key: Array, pad_mode: str) -> Array:
    count, height, width, _ = pixels.shape
    bounds = math.radians(DEGREES), math.log(ZOOM), SHEAR, SHIFT * height, SHIFT * width
    angle, zoom, shear, down, right = _uniform(key, count, *bounds)
    middle = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.meshgrid(
        jnp.arange(height, dtype=float) - middle[0], jnp.arange(width, dtype=float) - middle[1], indexing='ij'
    )

    def warp(image: Array, angle: Array, zoom: Array, shear: Array, down: Array, right: Array) -> Array:
        cos, sin = jnp.cos(angle) * jnp.exp(zoom), jnp.sin(angle) * jnp.exp(zoom)
        sheared = x + shear * y
        rows, columns = cos * y - sin * sheared + down, sin * y + cos * sheared + right
        return bilinear(image, rows + middle[0], columns + middle[1], pad_mode=pad_mode)

    return jax.vmap(warp)(pixels, angle, zoom, shear, down, right)


def bilinear(image: Array, rows: Array, columns: Array, *, pad_mode: str) -> Array:
    """The image [H, W, C], float, at real coordinates [h, w]: [h, w, C].

    Outside, from the middle of the outermost pixels on, it is black, or reflected there.
    """
    if pad_mode == 'reflect':
        rows, columns = _reflected(rows, image.shape[0]), _reflected(columns, image.shape[1])
    # A TPU gathers one pixel at a time; its matrix units are 40 times as fast by the compiler's estimate.
    return jax.lax.platform_dependent(
        image, rows, columns, tpu=bilinear_by_products, default=bilinear_by_gather
    )


def bilinear_by_gather(image: Array, rows: Array, columns: Array) -> Array:
    """`bilinear` on CPUs and GPUs, black outside."""
    height, width, _ = image.shape
    top, left = jnp.floor(rows), jnp.floor(columns)
    result = jnp.zeros((*rows.shape, image.shape[-1]), image.dtype)
    for row, row_weight in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for column, column_weight in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            i, j = (jnp.clip(at, 0, size - 1).astype(int) for at, size in ((row, height), (column, width)))
            result += weight[..., None] * image[i, j]
    return result


def bilinear_by_products(image: Array, rows: Array, columns: Array) -> Array:
    """`bilinear` on TPUs, black outside."""

    def weights(at: Array, size: int) -> Array:
        return jnp.maximum(0, 1 - jnp.abs(at[..., None] - jnp.arange(size, dtype=at.dtype)))

    return weighted_pixels(image, rows, columns, weights)


def _reflected(at: Array, size: int) -> Array:
    period = 2 * max(size - 1, 1)
    at = jnp.mod(at, float(period))
    return jnp.minimum(at, period - at)


def _retone(pixels: Array, key: Array) -> Array:
    contrast, brightness = (1 + draw[:, None, None, None] for draw in _uniform(key, len(pixels), TONE, TONE))
    mean = jnp.mean(pixels, axis=(1, 2, 3), keepdims=True)
    return jnp.clip((mean + contrast * (pixels - mean)) * brightness, 0, 255)


def _cut(pixels: Array, key: Array) -> Array:
    """Its mean colour in place of a square of side U(0, HOLE), whose centre is anywhere in the image."""
    count, height, width, _ = pixels.shape
    draws = jax.random.uniform(key, (3, count, 1), float)
    half = draws[0] * HOLE * min(height, width) / 2
    rows = jnp.abs(jnp.arange(height, dtype=float) + 0.5 - draws[1] * height) < half
    columns = jnp.abs(jnp.arange(width, dtype=float) + 0.5 - draws[2] * width) < half
    hole = (rows[:, :, None] & columns[:, None, :])[..., None]
    return jnp.where(hole, jnp.mean(pixels, axis=(1, 2), keepdims=True), pixels)
