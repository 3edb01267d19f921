"""What the network sees of an image: weak and strong views, and their normalisation.

An `Augment` is a function (uint8 [B, H, W, C], key) -> uint8 [B, H, W, C]; views are composed of them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from metasemi_jax.data.batches.affine import affine_view
from metasemi_jax.data.batches.augment import normalize, random_crop, random_flip
from metasemi_jax.data.batches.rand_augment import rand_augment

Array = jax.Array
Augment = Callable[[Array, Array], Array]


class Views(NamedTuple):
    """The views of the images of a batch."""

    weak: Augment  # of labeled and unlabeled images
    normalize: Callable[[Array], Array]  # uint8 [B, H, W, C] -> float
    second: Augment | None = None  # of unlabeled images; None: no second view


def make_views(
    *,
    pad: int,
    flip: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    pad_mode: str = 'black',
    second: str | None = None,
    strong: str = 'google',
) -> Views:
    """The views of the published recipes.

    Args:
      pad, pad_mode: of the random crop, see `random_crop`; 0 for no crop.
      flip: whether images are mirrored at random.
      mean, std: per channel, of images scaled to 0..1.
      second: 'weak': another draw of the weak view; 'strong': that, then RandAugment; None: no second view.
      strong: the variant of RandAugment, see `rand_augment`.
    """
    weak = weak_view(pad=pad, flip=flip, pad_mode=pad_mode)
    seconds = {None: None, 'weak': weak, 'strong': strong_view(weak, strong, pad_mode)}
    return Views(weak, functools.partial(normalize, mean=mean, std=std), seconds[second])


def weak_view(*, pad: int, flip: bool, pad_mode: str = 'black') -> Augment:
    """Random crop after padding, then perhaps a random flip."""

    def augment(images: Array, key: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        images = random_crop(images, crop_key, pad=pad, mode=pad_mode)
        return random_flip(images, flip_key) if flip else images

    return augment


def strong_view(weak: Augment, variant: str, pad_mode: str = 'black') -> Augment:
    """`weak`, then RandAugment and cutout, or the affine view."""

    def augment(images: Array, key: Array) -> Array:
        weak_key, strong_key = jax.random.split(key)
        if variant == 'affine':
            return affine_view(images, strong_key, pad_mode=pad_mode)
        return rand_augment(weak(images, weak_key), strong_key, variant=variant)

    return augment
