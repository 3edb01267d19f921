"""Several batches in one, without sending an image to another device."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array


def interleave(parts: Sequence[Array]) -> Array:
    """One batch of groups, each of which holds an equal share of every part.

    A mesh gives each device one contiguous piece of a batch. With the parts one after the other, the pieces
    of the whole would not consist of the pieces of the parts, and the devices would exchange images.
    """
    groups = math.gcd(*map(len, parts))
    cut = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
    return jnp.concatenate(cut, 1).reshape(-1, *parts[0].shape[1:])


def separate(batch: Array, sizes: Sequence[int]) -> list[Array]:
    """The parts [size, K] of an interleaved batch [sum of sizes, K]."""
    groups = math.gcd(*sizes)
    cut = jnp.split(batch.reshape(groups, -1, batch.shape[-1]), np.cumsum(sizes)[:-1] // groups, 1)
    return [part.reshape(-1, batch.shape[-1]) for part in cut]
