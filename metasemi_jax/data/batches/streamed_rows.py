"""The work of a streaming pipeline's processes: decode rows of batches, known by their numbers alone.

It imports no JAX. A row is a function of (seed, step) and its place in the batch; which process decodes it,
and what was decoded before, has no part in it.
"""

import sys
from typing import NamedTuple

import numpy as np

from metasemi_jax.data.images.random_resized_crop import CropRange
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sampling import Sampling, sample_stream

ELEMENT_BYTES = 1 << 21
AUGMENTATION = 1


class Pool(NamedTuple):
    """Images from which one part of every batch is drawn."""

    positions: np.ndarray  # int [N], in the dataset
    stream: int
    ratio: int = 1  # rows for each row of the labeled batch
    view: int = 0  # two views of the same draws have other crops

    def indices(self, seed: int, *, start: int, count: int) -> np.ndarray:
        """Indices in the pool that go with the draws `start` to `start + count` of the labeled stream."""
        return sample_stream(
            len(self.positions), (seed, self.stream), start=self.ratio * start, count=self.ratio * count
        )


class HostCrop(NamedTuple):
    """Augmentation while decoding."""

    range: CropRange
    flip: bool


class StreamedRows:
    """A Grain source: element i is a piece of a batch, uint8 [R, H, W, C], R the same but in a batch's last.

    A step's rows are this process's of the labeled batch, then those of the other pools in turn; they are cut
    into `elements_per_step` pieces of about 2 MB, so that a worker never holds a whole batch.
    """

    def __init__(
        self,
        images: StoredImages,
        pools: tuple[Pool, ...],
        sampling: Sampling,
        *,
        start_step: int,
        crop: HostCrop | None,
    ):
        """The rows of one process of `sampling`, from `start_step` on; no `crop`: the middle."""
        self._images, self._start_step, self._crop = images, start_step, crop
        self._seed, self._batch_size = sampling.seed, sampling.batch_size
        share = sampling.batch_size // sampling.process_count
        self._first_row = sampling.process_index * share
        # An empty pool has no rows.
        sizes = [share * pool.ratio if len(pool.positions) else 0 for pool in pools]
        self._pools, self._ends = pools, np.cumsum(sizes)
        self._rows_per_element = max(1, ELEMENT_BYTES // int(np.prod(images.shape[1:])))

    @property
    def rows_per_step(self) -> int:
        """Rows of one step, over all pools that have images."""
        return int(self._ends[-1])

    @property
    def elements_per_step(self) -> int:
        """How many elements hold the rows of one step."""
        return -(-self.rows_per_step // self._rows_per_element)

    def split(self, images: np.ndarray) -> list[np.ndarray]:
        """The rows of one step, [rows_per_step, ...], by pool."""
        return np.split(images, self._ends[:-1])

    def __len__(self) -> int:
        # Training has its own end.
        return sys.maxsize // 2

    def __getitem__(self, i: int) -> np.ndarray:
        step, piece = divmod(i, self.elements_per_step)
        first = piece * self._rows_per_element
        rows = range(first, min(first + self._rows_per_element, self.rows_per_step))
        images = np.empty((len(rows), *self._images.shape[1:]), np.uint8)
        for k, row in enumerate(rows):
            images[k] = self._row(self._start_step + step, row)
        return images

    def __repr__(self) -> str:
        # Grain prints its sources in some messages.
        return f'StreamedRows({len(self._images)} images)'

    def _row(self, step: int, row: int) -> np.ndarray:
        number = int(np.searchsorted(self._ends, row, side='right'))
        pool = self._pools[number]
        offset = row - (int(self._ends[number - 1]) if number else 0)
        draw = pool.ratio * (step * self._batch_size + self._first_row) + offset
        index = sample_stream(len(pool.positions), (self._seed, pool.stream), start=draw, count=1)[0]
        position = int(pool.positions[index])
        if self._crop is None:
            return self._images.decode(position)
        # No permutation's seed, [seed, stream, epoch]: those end in 0, by NumPy's padding.
        rng = np.random.default_rng([self._seed, pool.stream, draw, AUGMENTATION + pool.view])
        return self._images.decode_crop(position, rng, self._crop.range, flip=self._crop.flip)
