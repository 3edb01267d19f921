"""What each variant draws for images of `shape` [B, H, W, C] from one key, and how likely.

Continuous magnitudes come in steps of a power of two, so that each is exact in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .operations import OPERATIONS, is_one_of

GOOGLE_COUNT, USB_COUNT = 2, 3
GOOGLE_CUTOUT = 16
GOOGLE_LEVELS = range(1, 10)
SIGNED = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')


class Draws(NamedTuple):
    """The augmentation of B images by n operations each."""

    operation: Array  # int32 [B, n], in OPERATIONS
    value: Array  # float32 [B, n], in the operation's unit; of those without a magnitude it says nothing
    box: Array  # int32 [B, 4], what cutout fills: top, left, bottom, right, the last two exclusive


def draw_google(key: Array, shape: tuple[int, ...]) -> Draws:
    """google-research/fixmatch, `rac` of libml/augment.py: two operations, each done with probability ½.

    One of nine magnitudes and, of the geometric operations, a sign; a box of 16 pixels cut off at the border.
    """
    count, size = shape[0], jnp.asarray(shape[1:3], jnp.int32)
    keys = jax.random.split(key, 5)
    drawn = (count, GOOGLE_COUNT)
    operation = _operations(keys[0], drawn)
    level = jax.random.randint(keys[1], drawn, GOOGLE_LEVELS.start, GOOGLE_LEVELS.stop, jnp.int32)
    value = jnp.asarray(_google_values())[operation, level]
    negative = _coin(keys[2], drawn) & is_one_of(operation, SIGNED)
    done = _coin(keys[3], drawn)
    center = jax.random.randint(keys[4], (count, 2), 0, size, jnp.int32)
    half = GOOGLE_CUTOUT // 2
    box = jnp.concatenate([jnp.maximum(center - half, 0), jnp.minimum(center + half, size)], 1)
    # Operation 0 is the identity.
    return Draws(jnp.where(done, operation, 0), jnp.where(negative, -value, value), box)


def _google_values() -> np.ndarray:
    """float32 [operations, levels], of third_party/auto_augment/augmentations.py."""

    def values(name: str, level: int) -> float:
        match name:
            case 'posterize':
                return 4 - level * 4 // 10
            case 'solarize':
                return 256 - level * 256 // 10
            case 'brightness' | 'contrast' | 'color' | 'sharpness':
                return level * 1.8 / 10 + 0.1
            case 'rotate':
                return level * 30 // 10
            case 'shear_x' | 'shear_y':
                return level * 0.3 / 10
            case 'translate_x' | 'translate_y':
                return level * 10 // 10
        return 0.0

    return np.array([[values(name, level) for level in range(10)] for name in OPERATIONS], np.float32)


def draw_usb(key: Array, shape: tuple[int, ...]) -> Draws:
    """microsoft/Semi-supervised-learning, `RandAugment(3, 5)`: three operations, their magnitudes uniform.

    The side of cutout's box is ⌊v⌋ + 1 pixels, v uniform up to half the width. Its corner lies v/2 before a
    point that is uniform from 1 to the size: that is what the source's `np.random.uniform(w)` gives.
    """
    count, height, width, _ = shape
    keys = jax.random.split(key, 4)
    drawn = (count, USB_COUNT)
    operation = _operations(keys[0], drawn)
    low, high, step = (jnp.asarray(column)[operation] for column in _usb_ranges(height, width))
    value = jax.random.randint(keys[1], drawn, low, high, jnp.int32).astype(jnp.float32) * step
    # In units of 2**-16 of the width, and 2**-15 of the way from the size down to 1.
    side = jax.random.randint(keys[2], (count, 1), 0, 1 << 15, jnp.int32)
    point = jax.random.randint(keys[3], (count, 2), 0, 1 << 15, jnp.int32)
    return Draws(operation, value, usb_box(side, point, height, width))


def _usb_ranges(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and first excluded value in steps, and the step, of each operation: int32, int32, float32."""
    factor, shear = (0.05, 0.95, 2**-16), (-0.3, 0.3, 2**-16)
    ranges = {
        **dict.fromkeys(('brightness', 'contrast', 'color', 'sharpness'), factor),
        **dict.fromkeys(('shear_x', 'shear_y'), shear),
        'posterize': (4, 8, 1),
        'solarize': (0, 256, 2**-16),
        'rotate': (-30, 30, 2**-12),
        'translate_x': (-0.3 * width, 0.3 * width, 2**-12),
        'translate_y': (-0.3 * height, 0.3 * height, 2**-12),
    }
    low, high, step = zip(*(ranges.get(name, (0, 1, 1)) for name in OPERATIONS), strict=True)
    low, high = (np.round(np.divide(bound, step)).astype(np.int32) for bound in (low, high))
    return low, high, np.array(step, np.float32)


def usb_box(side: Array, point: Array, height: int, width: int) -> Array:
    """USB's rectangle, int32 [B, 4], from its draws.

    Args:
      side: int32 [B, 1]; v = side·width/2**16 pixels. 0 is no box.
      point: int32 [B, 2], of y and x: size - (size - 1)·point/2**15 pixels.
    """
    size = jnp.asarray((height, width), jnp.int32)
    # All in units of 2**-17 pixel, up to sizes of 2**13.
    extent = side * width * 2
    corner = (size << 17) - (size - 1) * point * 4
    first = jnp.maximum(corner - extent // 2, 0) >> 17
    # Pillow fills the last row and column too.
    last = jnp.minimum(first + (extent >> 17), size - 1)
    return jnp.concatenate([first, jnp.where(side > 0, last + 1, first)], 1)


def _operations(key: Array, shape: tuple[int, int]) -> Array:
    return jax.random.randint(key, shape, 0, len(OPERATIONS), jnp.int32)


def _coin(key: Array, shape: tuple[int, int]) -> Array:
    """True with probability ½; in float64 mode the same draws."""
    return jax.random.bernoulli(key, jnp.float32(0.5), shape)
