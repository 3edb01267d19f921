"""RandAugment of a batch: the drawn operations, then cutout."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .blending import gray
from .draws import Draws, draw_google, draw_usb
from .layer import apply


class Variant(NamedTuple):
    """A published form of RandAugment."""

    draw: Callable[[Array, tuple[int, ...]], Draws]
    cutout_color: tuple[int, int, int]
    empty_level: int | None  # where the picture moved away, until an operation fills it; None: black at once


VARIANTS = {
    'google': Variant(draw_google, (127, 127, 127), 127),
    'usb': Variant(draw_usb, (125, 123, 114), None),
}


def rand_augment(images: Array, key: Array, *, variant: str) -> Array:
    """Strong augmentation, with draws of its own for each image.

    `google` is that of google-research/fixmatch, `usb` that of microsoft/Semi-supervised-learning; `draws`
    has their distributions. Two things of Google's are not copied: its grey is 127.5, here 127; and it makes
    47 of the 256 levels one darker, where it turns floats into integers.

    Args:
      images: uint8 [B, H, W, C], C 1 or 3, before normalisation.
      key: one key for all images.
      variant: one of VARIANTS.

    Raises:
      ValueError: other images, or an unknown variant.
    """
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f'rand_augment takes uint8 [B, H, W, 1 or 3], not {images.dtype} {images.shape}')
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant of RandAugment '{variant}'; known: {', '.join(VARIANTS)}")
    return augment(images, VARIANTS[variant].draw(key, images.shape), VARIANTS[variant])


def augment(images: Array, draws: Draws, variant: Variant) -> Array:
    """`images` uint8 [B, H, W, C] after what was drawn for each, in the colours of `variant`."""
    channels, empty = images.shape[-1], variant.empty_level
    if empty is not None:
        opaque = jnp.full((*images.shape[:3], 1), 255, jnp.uint8)
        images = jnp.concatenate([images, opaque], -1)

    def next_operation(images: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        return apply(images, *drawn, channels=channels), None

    # A loop, so that XLA compiles the operations once.
    images, _ = jax.lax.scan(next_operation, images, (draws.operation.T, draws.value.T))
    if empty is not None:
        images = jnp.where(images[..., channels:] == 0, jnp.uint8(empty), images[..., :channels])
    return cutout(images, draws.box, variant.cutout_color)


def cutout(images: Array, box: Array, color: tuple[int, int, int]) -> Array:
    """`images` uint8 [B, H, W, C] with `color` in a box of each.

    Args:
      images: images of one channel get the luma of `color`.
      box: int32 [B, 4]: top, left, bottom, right, the last two exclusive.
      color: red, green, blue.
    """
    height, width, channels = images.shape[1:]
    y, x = jnp.arange(height, dtype=jnp.int32)[:, None], jnp.arange(width, dtype=jnp.int32)
    top, left, bottom, right = box.T[:, :, None, None]
    inside = (y >= top) & (x >= left) & (y < bottom) & (x < right)
    fill = jnp.asarray(color, jnp.uint8)
    if channels == 1:
        fill = gray(fill).astype(jnp.uint8)
    return jnp.where(inside[..., None], fill, images)
