"""A strong view that keeps an image's meaning: turned, scaled, sheared, shifted; brightness, contrast; a hole.

RandAugment's operations are for photographs: some of them invert or reduce colours. These few are mild enough
for writing, textures and photographs alike, work at any size from 8×8 on, and cost little on a CPU.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

Array = jax.Array
DEGREES = 25.0
ZOOM = 1.25  # largest factor, and its inverse the smallest
SHEAR = 0.25
SHIFT = 0.125  # of the side
TONE = 0.4  # contrast and brightness change by so much at most
HOLE = 0.5  # largest side of the hole, of the image's side


def affine_view(images: Array, key: Array, *, pad_mode: str = 'black') -> Array:
    """Each image [B, H, W, C], uint8, under an affine map, a change of tone and a hole of its own.

    Args:
      images: of any size.
      key: used up; all draws are uniform and independent for every image.
      pad_mode: what lies outside an image: 'black', or its 'reflect'ion.
    """
    keys = jax.random.split(key, 3)
    pixels = images.astype(float)
    pixels = _warp(pixels, keys[0], 'constant' if pad_mode == 'black' else 'mirror')
    pixels = _cut(_retone(pixels, keys[1]), keys[2])
    return jnp.round(pixels).astype(images.dtype)


def _uniform(key: Array, count: int, *bounds: float) -> list[Array]:
    draws = jax.random.uniform(key, (len(bounds), count), minval=-1, maxval=1)
    return [bound * draw for bound, draw in zip(bounds, draws, strict=True)]


def _warp(pixels: Array, key: Array, mode: str) -> Array:
    count, height, width, _ = pixels.shape
    bounds = (jnp.deg2rad(DEGREES), jnp.log(ZOOM), SHEAR, SHIFT * height, SHIFT * width)
    angle, zoom, shear, down, right = _uniform(key, count, *bounds)
    cos, sin = jnp.cos(angle) * jnp.exp(zoom), jnp.sin(angle) * jnp.exp(zoom)
    y, x = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing='ij'
    )

    def warp(image: Array, cos: Array, sin: Array, shear: Array, down: Array, right: Array) -> Array:
        sheared = x + shear * y
        rows = cos * y - sin * sheared + down + (height - 1) / 2
        columns = sin * y + cos * sheared + right + (width - 1) / 2

        def channel(values: Array) -> Array:
            return map_coordinates(values, [rows, columns], order=1, mode=mode)

        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(warp)(pixels, cos, sin, shear, down, right)


def _retone(pixels: Array, key: Array) -> Array:
    contrast, brightness = (
        1 + draw[:, None, None, None] for draw in _uniform(key, len(pixels), TONE, TONE)
    )
    mean = jnp.mean(pixels, axis=(1, 2, 3), keepdims=True)
    return jnp.clip((mean + contrast * (pixels - mean)) * brightness, 0, 255)


def _cut(pixels: Array, key: Array) -> Array:
    """Its mean colour in the place of a square of side U(0, HOLE), whose centre is anywhere in the image."""
    count, height, width, _ = pixels.shape
    draws = jax.random.uniform(key, (3, count, 1))
    half = draws[0] * HOLE * min(height, width) / 2
    rows = jnp.abs(jnp.arange(height) + 0.5 - draws[1] * height) < half
    columns = jnp.abs(jnp.arange(width) + 0.5 - draws[2] * width) < half
    hole = (rows[:, :, None] & columns[:, None, :])[..., None]
    return jnp.where(hole, jnp.mean(pixels, axis=(1, 2), keepdims=True), pixels)
