"""Augmentation and normalisation on the device, inside the jitted step."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

PAD_MODES = ('black', 'reflect')


def random_crop(images: Array, key: Array, *, pad: int, mode: str = 'black') -> Array:
    """Pad by `pad` pixels on every side, then crop the old size at a random place.

    Args:
      images: [B, H, W, C]; black is 0, so this comes before normalisation.
      key: one offset is drawn for each image.
      pad: less than H and W; 0 leaves the images as they are.
      mode: one of `PAD_MODES`: 'black', or 'reflect': mirrored at the border pixels, which are not repeated.
    """
    if pad == 0:
        return images
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1, jnp.int32)
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(images, around, mode='reflect' if mode == 'reflect' else 'constant')

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], jnp.int32(0)), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def random_flip(images: Array, key: Array) -> Array:
    """Mirror each image [B, H, W, C] left to right with probability ½."""
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def normalize(images: Array, *, mean: ArrayLike, std: ArrayLike) -> Array:
    """uint8 [..., C] -> (images/255 - mean)/std, in JAX's default float; `mean` and `std` are of 0 to 1."""
    scale = 1 / (255 * jnp.asarray(std, float))
    shift = jnp.asarray(mean, float) / jnp.asarray(std, float)
    return images.astype(scale.dtype) * scale - shift
