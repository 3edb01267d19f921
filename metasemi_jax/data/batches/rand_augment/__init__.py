"""RandAugment on the device, equal to Pillow's bit for bit.

This folder needs JAX and NumPy alone and imports nothing from outside itself; it can be copied into another
project as it is.
"""

from .policies import VARIANTS, rand_augment

__all__ = ['VARIANTS', 'rand_augment']
