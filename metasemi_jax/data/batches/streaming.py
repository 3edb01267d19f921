"""From images on disk to the batches of the step: decoded by worker processes, sent as uint8."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from metasemi_jax.batch import Batch
from metasemi_jax.data.batches.resident import LABELED_STREAM, UNLABELED_STREAM, Pipeline, make_batch
from metasemi_jax.data.batches.streamed_rows import HostCrop, Pool, StreamedRows
from metasemi_jax.data.batches.views import Views
from metasemi_jax.data.batches.workers import stream
from metasemi_jax.data.dataset import Dataset

Array = jax.Array
PyTree = Any


def streaming_pipeline(
    dataset: Dataset,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    views: Views,
    unlabeled_ratio: int = 1,
    crop: HostCrop | None = None,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Batches of the examples that `resident_pipeline` would choose, read from disk as they are needed.

    Args:
      dataset: `train_images` are `StoredImages`.
      labeled, unlabeled, batch_size, seed, views, unlabeled_ratio: as for `resident_pipeline`, which has the
        same signature so that the caller chooses between the two; the device makes the views.
      crop: done before that, while decoding, its randomness from (seed, pool, number of the draw); None for
        the middle square of every image. With it, a second view is another crop, decoded besides.
      num_workers: processes that decode, see `workers.stream`.
      process_index, process_count: this host sends its contiguous share of the rows of the global batch.
    """
    share = batch_size // process_count
    pools = [Pool(labeled, LABELED_STREAM), Pool(unlabeled, UNLABELED_STREAM, unlabeled_ratio)]
    if crop is not None and views.second is not None:
        pools.append(pools[1]._replace(view=1))

    def host_batches(start_step: int) -> Iterator[PyTree]:
        rows = StreamedRows(
            dataset.train_images,
            tuple(pools),
            seed=seed,
            start_step=start_step,
            batch_size=batch_size,
            first_row=process_index * share,
            num_rows=share,
            crop=crop,
        )
        elements = stream(rows, num_workers=num_workers)
        step = start_step
        try:
            while True:
                images = rows.split(_gather(elements, rows, dataset.image_shape))
                start = step * batch_size + process_index * share
                drawn = [pool.indices(seed, start=start, count=share) for pool in pools[:2]]
                labels = [
                    dataset.train_labels[pool.positions[index]]
                    for pool, index in zip(pools, drawn, strict=False)
                ]
                yield images, labels, drawn[1].astype(np.int32)
                step += 1
        finally:
            elements.close()

    def to_batch(device_data: PyTree, sent: PyTree, key: Array) -> Batch:
        del device_data
        images, labels, ids = sent
        return make_batch(views, images[0], labels[0], images[1], labels[1], ids, key, *images[2:])

    return Pipeline((), host_batches, to_batch)


def _gather(elements: Iterator[np.ndarray], rows: StreamedRows, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of one step: uint8 [rows, H, W, C]."""
    images, filled = np.empty((rows.rows_per_step, *shape), np.uint8), 0
    for _ in range(rows.elements_per_step):
        element = next(elements)
        images[filled : filled + len(element)] = element
        filled += len(element)
    return images
