"""From images on disk to the batches of the step: decoded by worker processes, sent as uint8."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from metasemi_jax.batch import Batch
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.pipeline import (
    LABELED_STREAM,
    UNLABELED_STREAM,
    Augmentation,
    Pipeline,
    augment,
)
from metasemi_jax.data.streamed_rows import HostCrop, Pool, StreamedRows
from metasemi_jax.data.workers import stream

Array = jax.Array
PyTree = Any


def streaming_pipeline(
    dataset: Dataset,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    crop: HostCrop | None = None,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Batches of the examples that `resident_pipeline` would choose, read from disk as they are needed.

    Args:
      dataset: `train_images` are `StoredImages`.
      labeled, unlabeled, batch_size, seed, augmentation: as for `resident_pipeline`; the augmentation is done
        on the device.
      crop: done before that, while decoding, its randomness from (seed, pool, number of the draw); None for
        the middle square of every image.
      num_workers: processes that decode, see `workers.stream`.
      process_index, process_count: this host sends its contiguous share of the rows of the global batch.
    """
    share = batch_size // process_count
    pools = Pool(labeled, LABELED_STREAM), Pool(unlabeled, UNLABELED_STREAM)

    def host_batches(start_step: int) -> Iterator[PyTree]:
        rows = StreamedRows(
            dataset.train_images,
            pools,
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
                images = _gather(elements, rows, dataset.image_shape)
                start = step * batch_size + process_index * share
                labels = [dataset.train_labels[pool.draw(seed, start=start, count=share)] for pool in pools]
                yield images[:share], labels[0], images[share:], labels[1]
                step += 1
        finally:
            elements.close()

    def to_batch(device_data: PyTree, sent: tuple[Array, ...], key: Array) -> Batch:
        del device_data
        labeled_images, labels, unlabeled_images, unlabeled_labels = sent
        labeled_key, unlabeled_key = jax.random.split(key)
        return Batch(
            labeled_images=augment(labeled_images, labeled_key, augmentation),
            labels=labels,
            unlabeled_images=augment(unlabeled_images, unlabeled_key, augmentation),
            unlabeled_labels=unlabeled_labels,
        )

    return Pipeline((), host_batches, to_batch)


def _gather(elements: Iterator[np.ndarray], rows: StreamedRows, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of one step: uint8 [rows, H, W, C]."""
    images, filled = np.empty((rows.rows_per_step, *shape), np.uint8), 0
    for _ in range(rows.elements_per_step):
        element = next(elements)
        images[filled : filled + len(element)] = element
        filled += len(element)
    return images
