"""Step-indexed shuffling: a batch is a function of (seed, step), so there is no iterator state to save."""

import functools
from typing import NamedTuple

import numpy as np


class Sampling(NamedTuple):
    """What each step's batch is drawn from, and which rows of it a process sends."""

    labeled: np.ndarray  # int, positions in the training images
    unlabeled: np.ndarray  # may overlap with `labeled`; none: batches without unlabeled images
    batch_size: int  # B of the labeled batch
    seed: int  # seeds the labeled and the unlabeled index stream
    unlabeled_ratio: int = 1  # μ; the unlabeled batch has μ·B images
    process_index: int = 0
    process_count: int = 1


def sample_stream(pool_size: int, seed: tuple[int, ...], *, start: int, count: int) -> np.ndarray:
    """Entries `start` to `start + count` of the endless stream that reshuffles a pool whenever it is used up.

    Every stretch [n·pool_size, (n + 1)·pool_size) holds each position once; a batch may run across the
    border of two stretches, or several where it is larger than the pool, as in the authors' program.

    Args:
      pool_size: number of examples in the pool; 0 gives an empty batch.
      seed: names the stream, with the epoch behind it. NumPy pads seeds with zeros, so epoch 0 of (s, 0) has
        the generator of `default_rng(s)`, which draws the labeled split, and epoch 0 of (s, 1) that of the
        validation split. This does no harm: a split draws a choice of images, this an order of those chosen.
      start: number of entries drawn before.
      count: number of entries to draw.

    Returns:
      Positions in the pool, int64 [count].
    """
    if pool_size == 0:
        return np.zeros(0, np.int64)
    drawn = np.arange(start, start + count)
    epochs, offsets = np.divmod(drawn, pool_size)
    parts = [
        _permutation(pool_size, seed, int(epoch))[offsets[epochs == epoch]]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return np.concatenate(parts).astype(np.int64)


# Two streams, two epochs of each at a border; as int32, for every worker process holds them.
@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(size).astype(np.int32)
