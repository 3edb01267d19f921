"""One operation for each image of a batch, another for each."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from . import geometry, tables
from .blending import blend, gray, mean_gray, smooth
from .lookups import look_up
from .operations import CODES, is_one_of

BLENDS = ('color', 'sharpness')
TABLES = ('autocontrast', 'equalize', 'posterize', 'solarize', 'brightness', 'contrast')
# Google's code does these on RGB, and thereby makes what was empty part of the picture.
FILLS_EMPTY = ('autocontrast', 'equalize', 'posterize', 'solarize')


def apply(images: Array, operation: Array, value: Array, *, channels: int) -> Array:
    """OPERATIONS by their numbers.

    `vmap` of a switch would compute all fourteen for every image. They are three steps here, and an image
    passes unchanged through those that are not its own: a blend, a table for each channel, an affine
    transformation.

    Args:
      images: uint8 [B, H, W, channels], or with opacity as one channel more, 0 where the picture is empty.
      operation: int32 [B].
      value: float32 [B], in the operation's unit.
      channels: number of colour channels, opacity not counted.
    """
    colors, opacity = images[..., :channels], images[..., channels:]
    drawn = (colors, operation, value)
    # A branch ends in memory. XLA on CPU would fuse a table with the look-up, and compute it for each pixel.
    blended = jax.lax.cond(
        jnp.any(is_one_of(operation, BLENDS)), jax.vmap(_blended), lambda colors, *_: colors, *drawn
    )
    table = jax.lax.cond(jnp.any(is_one_of(operation, TABLES)), jax.vmap(_table), _no_tables, *drawn)
    colors = jax.vmap(look_up)(table, blended)
    if opacity.shape[-1]:
        filled = is_one_of(operation, FILLS_EMPTY)[:, None, None, None]
        opacity = jnp.where(filled, jnp.uint8(255), opacity)
    coefficients = jax.vmap(functools.partial(_coefficients, images.shape[1:3]))(operation, value)
    return jax.vmap(geometry.transform)(jnp.concatenate([colors, opacity], -1), coefficients)


def _blended(image: Array, operation: Array, value: Array) -> Array:
    """The image after a blend; after any other operation, as it is: uint8 [H, W, C]."""
    degenerate = jnp.where(operation == CODES['color'], gray(image)[..., None], smooth(image))
    return blend(degenerate, image, jnp.where(is_one_of(operation, BLENDS), value, 1))


def _table(image: Array, operation: Array, value: Array) -> Array:
    """The table of a pointwise operation; of any other the identity: uint8 [C, 256]."""
    mean = jnp.where(operation == CODES['contrast'], mean_gray(image), 0)
    mixed = tables.blended(mean, value)
    choices = {
        'autocontrast': tables.autocontrast(image),
        'equalize': tables.equalize(image),
        'posterize': tables.posterize(value),
        'solarize': tables.solarize(value),
        'brightness': mixed,
        'contrast': mixed,
    }
    table = tables.levels().astype(jnp.uint8)
    for name, choice in choices.items():
        table = jnp.where(operation == CODES[name], choice, table)
    return table


def _no_tables(images: Array, *_: Array) -> Array:
    identity = tables.levels().astype(jnp.uint8)
    return jnp.broadcast_to(identity, (images.shape[0], images.shape[-1], 256))


def _coefficients(size: tuple[int, int], operation: Array, value: Array) -> Array:
    """The coefficients of a geometric operation; of any other the identity: int32 [6]."""

    def value_of(name: str) -> Array:
        return jnp.where(operation == CODES[name], value, 0)

    moved = geometry.translate(value_of('translate_x'), value_of('translate_y'))
    sheared = geometry.shear(value_of('shear_x'), value_of('shear_y'))
    turned = geometry.rotate(value_of('rotate'), *size)
    moved = jnp.where(is_one_of(operation, ('shear_x', 'shear_y')), sheared, moved)
    return jnp.where(operation == CODES['rotate'], turned, moved)
