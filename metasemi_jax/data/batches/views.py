"""What the network sees of an image: weak and strong views, and their normalisation.

An `Augment` is a function (uint8 [B, H, W, C], key) -> uint8 [B, H, W, C]; views are composed of them.
Features [B, D] have views of their own.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metasemi_jax.data.batches.affine import affine_view
from metasemi_jax.data.batches.augment import normalize, random_crop, random_flip
from metasemi_jax.data.batches.rand_augment import rand_augment
from metasemi_jax.data.dataset import InputSpec

Augment = Callable[[Array, Array], Array]
Statistics = tuple[Array, Array] | tuple[()]  # mean and standard deviation [C] of images; () of features
# Standard deviations of the noise on standardised features.
WEAK_NOISE, STRONG_NOISE = 0.1, 0.5


class Views(NamedTuple):
    """The views of the images of a batch."""

    weak: Augment  # of labeled and unlabeled images
    statistics: Statistics  # the arguments of `normalize_by`
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
      pad, pad_mode: arguments of `random_crop`; pad 0 for no crop.
      flip: whether images are mirrored at random.
      mean, std: per channel, of images scaled to 0..1.
      second: 'weak': another draw of the weak view; 'strong': see `strong`; None: no second view.
      strong: a variant of `rand_augment`, after the weak view; or 'affine': `affine_view` after the flip.
    """
    weak = weak_view(pad=pad, flip=flip, pad_mode=pad_mode)
    if strong == 'affine':
        # The strong view shifts by more than the crop does.
        flipped = weak_view(pad=0, flip=flip)
        strongly = then(flipped, functools.partial(affine_view, pad_mode=pad_mode))
    else:
        strongly = then(weak, functools.partial(rand_augment, variant=strong))
    seconds = {None: None, 'weak': weak, 'strong': strongly}
    return Views(weak, statistics_of(mean, std), seconds[second])


def feature_views(second: str | None) -> Views:
    """Views of standardised features [B, D]: normal noise, independent for each of them.

    Args:
      second: 'weak': another draw of the weak view's `WEAK_NOISE`; 'strong': `STRONG_NOISE`; None: none.
    """
    weak, strong = (functools.partial(_noisy, sigma=sigma) for sigma in (WEAK_NOISE, STRONG_NOISE))
    seconds = {None: None, 'weak': weak, 'strong': strong}
    return Views(weak, (), seconds[second])


def normalize_by(statistics: Statistics, examples: Array) -> Array:
    """What the network takes of examples: images normalised by `statistics`, features as they are.

    The statistics are values, not constants of a program: one compilation serves images of any mean.
    """
    if not statistics:
        return examples.astype(float)
    mean, std = statistics
    return normalize(examples, mean=mean, std=std)


@functools.lru_cache(maxsize=64)
def make_normalize(spec: InputSpec) -> Callable[[Array], Array]:
    """`normalize_by` with the statistics of `spec`; equal specs give one function."""
    return functools.partial(normalize_by, statistics_of(spec.mean, spec.std))


def statistics_of(mean: tuple[float, ...], std: tuple[float, ...]) -> Statistics:
    """The argument of `normalize_by`; `mean` and `std` are those of an `InputSpec`."""
    # In JAX's default float: the transfer to a device is explicit, and makes no other type of them.
    dtype = jax.dtypes.canonicalize_dtype(float)
    return (np.asarray(mean, dtype), np.asarray(std, dtype)) if mean else ()


def _noisy(features: Array, key: Array, *, sigma: float) -> Array:
    noise = jax.random.normal(key, features.shape, features.dtype)
    return features + jnp.asarray(sigma, features.dtype) * noise


def weak_view(*, pad: int, flip: bool, pad_mode: str = 'black') -> Augment:
    """Random crop after padding, then perhaps a random flip."""

    def augment(images: Array, key: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        images = random_crop(images, crop_key, pad=pad, mode=pad_mode)
        return random_flip(images, flip_key) if flip else images

    return augment


def then(first: Augment, second: Augment) -> Augment:
    """`first`, then `second`, each with its own key."""

    def augment(images: Array, key: Array) -> Array:
        first_key, second_key = jax.random.split(key)
        return second(first(images, first_key), second_key)

    return augment
