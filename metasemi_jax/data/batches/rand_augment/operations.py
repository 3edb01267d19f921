"""The names of the operations of both variants, and their numbers.

Each equals Pillow's of modes L and RGB for uint8 [H, W, C], C 1 or 3. Of a grey image Pillow has no colour to
change: 'color' leaves it, and 'contrast' takes the mean of its one channel.
"""

import jax.numpy as jnp
from jax import Array

OPERATIONS = (
    'identity',
    'autocontrast',  # `ImageOps`
    'equalize',
    'posterize',  # to so many bits, whose fraction is cut off
    'solarize',  # from that threshold on
    'brightness',  # `ImageEnhance`, by that factor
    'contrast',
    'color',
    'sharpness',
    'rotate',  # `Image.rotate`, counterclockwise, at most 45 degrees either way and to 1/4096 of one
    'shear_x',  # `Image.transform` with (1, shear, 0, 0, 1, 0)
    'shear_y',
    'translate_x',  # `Image.transform` with (1, 0, pixels, 0, 1, 0): a positive value moves to the left
    'translate_y',  # a positive value moves up
)
CODES = {name: code for code, name in enumerate(OPERATIONS)}


def is_one_of(operation: Array, names: tuple[str, ...]) -> Array:
    """Whether each of `operation` int32, numbers of OPERATIONS, is one of `names`."""
    return jnp.asarray([name in names for name in OPERATIONS])[operation]
