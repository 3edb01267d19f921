"""From images on disk to the batches of the step: decoded by worker processes, sent as uint8."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from metasemi_jax.batch import Batch
from metasemi_jax.data.batches.resident import LABELED_STREAM, UNLABELED_STREAM, Pipeline, make_batch
from metasemi_jax.data.batches.streamed_rows import HostCrop, Pool, StreamedRows
from metasemi_jax.data.batches.views import Views
from metasemi_jax.data.batches.workers import stream
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.sampling import Sampling

PyTree = Any


def streaming_pipeline(
    dataset: Dataset, sampling: Sampling, views: Views, *, crop: HostCrop | None = None, num_workers: int = 0
) -> Pipeline:
    """Batches of the examples that `resident_pipeline` would choose, read from disk as they are needed.

    Args:
      dataset: `train_images` are `StoredImages`.
      sampling: as for `resident_pipeline`; a process sends a contiguous share of the rows of the batch.
      views: the augmentation of each image, on the device.
      crop: done before that, while decoding, its randomness from (seed, pool, number of the draw); None for
        the middle square of every image. With it, a second view is another crop, decoded besides.
      num_workers: processes that decode, see `workers.stream`.
    """
    labeled, unlabeled, batch_size, seed, ratio, process_index, process_count = sampling
    share = batch_size // process_count
    first_row = process_index * share
    pools = [Pool(labeled, LABELED_STREAM), Pool(unlabeled, UNLABELED_STREAM, ratio)]
    if crop is not None and views.second is not None:
        pools.append(pools[1]._replace(view=1))

    def labels_and_ids(step: int) -> tuple[list[np.ndarray], np.ndarray]:
        start = step * batch_size + first_row
        drawn = [pool.indices(seed, start=start, count=share) for pool in pools[:2]]
        known = zip(pools, drawn, strict=False)
        labels = [dataset.train_labels[pool.positions[index]] for pool, index in known]
        return labels, drawn[1].astype(np.int32)

    def host_batches(start_step: int) -> Iterator[PyTree]:
        rows = StreamedRows(dataset.train_images, tuple(pools), sampling, start_step=start_step, crop=crop)
        with contextlib.closing(stream(rows, num_workers=num_workers)) as elements:
            for step in itertools.count(start_step):
                images = rows.split(_gather(elements, rows, dataset.image_shape))
                yield images, *labels_and_ids(step)

    def to_batch(device_data: PyTree, sent: PyTree, key: Array) -> Batch:
        del device_data
        (labeled, unlabeled, *second), labels, ids = sent
        raw = Batch(labeled, labels[0], unlabeled, labels[1], second[0] if second else None, ids)
        return make_batch(views, raw, key)

    return Pipeline((), host_batches, to_batch)


def _gather(elements: Iterator[np.ndarray], rows: StreamedRows, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of one step: uint8 [rows, H, W, C]."""
    images, filled = np.empty((rows.rows_per_step, *shape), np.uint8), 0
    for _ in range(rows.elements_per_step):
        element = next(elements)
        images[filled : filled + len(element)] = element
        filled += len(element)
    return images
