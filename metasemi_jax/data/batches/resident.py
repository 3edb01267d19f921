"""From a dataset in memory to the batches of the step."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from metasemi_jax.batch import Batch
from metasemi_jax.data.batches.views import Views, normalize_by
from metasemi_jax.data.dataset import Dataset, Images
from metasemi_jax.data.sampling import Sampling, sample_stream
from metasemi_jax.distributed.sharding import process_rows

PyTree = Any
LABELED_STREAM, UNLABELED_STREAM = 0, 1
COUNTED_BYTES = 1 << 24
COUNTED_IMAGES = 2048


class Pipeline(NamedTuple):
    """Data on the devices, data that the host sends each step, and a function from both to a batch."""

    device_data: PyTree  # NumPy arrays, to be placed by the caller
    host_batches: Callable[[int], Iterator[PyTree]]  # start_step -> each step's rows of this process
    to_batch: Callable[[PyTree, PyTree, Array], Batch]  # (device_data, element, key), inside the jitted step


def resident_pipeline(dataset: Dataset, sampling: Sampling, views: Views) -> Pipeline:
    """All training images, or features, on every device; the host sends nothing but indices."""
    labeled, unlabeled, batch_size, seed, ratio, process_index, process_count = sampling
    pools = (
        (len(labeled), LABELED_STREAM, batch_size),
        (len(unlabeled), UNLABELED_STREAM, ratio * batch_size),
    )

    def host_batches(start_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step in itertools.count(start_step):
            yield tuple(
                sample_stream(available, (seed, stream), start=step * count, count=count)[
                    process_rows(count, process_index, process_count)
                ].astype(np.int32)
                for available, stream, count in pools
            )

    def to_batch(device_data: PyTree, drawn: tuple[Array, Array], key: Array) -> Batch:
        images, labels, *positions, statistics = device_data
        labeled_index, unlabeled_index = (
            position[index] for position, index in zip(positions, drawn, strict=True)
        )
        raw = Batch(
            images[labeled_index].reshape(-1, *shape),
            labels[labeled_index],
            images[unlabeled_index].reshape(-1, *shape),
            labels[unlabeled_index],
            unlabeled_ids=drawn[1],
        )
        return make_batch(views._replace(statistics=statistics), raw, key)

    # An image a row: a TPU pads the last axis to 128, which would make four times as much of a width of 32.
    shape = dataset.train_images.shape[1:]
    rows = dataset.train_images.reshape(-1, math.prod(shape))
    data = (rows, dataset.train_labels, labeled, unlabeled, views.statistics)
    return Pipeline(data, host_batches, to_batch)


def make_batch(views: Views, raw: Batch, key: Array) -> Batch:
    """A step's batch from its decoded images, uint8, or from features.

    The strong images of `raw` are those of the second view; None takes those of the weak view.
    """
    labeled_key, unlabeled_key = jax.random.split(key)
    normalize = functools.partial(normalize_by, views.statistics)
    strong = None
    if views.second is not None:
        second = raw.unlabeled_images if raw.strong_images is None else raw.strong_images
        strong = normalize(views.second(second, jax.random.fold_in(unlabeled_key, 1)))
    return raw._replace(
        labeled_images=normalize(views.weak(raw.labeled_images, labeled_key)),
        unlabeled_images=normalize(views.weak(raw.unlabeled_images, unlabeled_key)),
        strong_images=strong,
    )


def channel_statistics(
    images: Images, positions: np.ndarray | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, H, W, C], on the scale of 0 to 1.

    From each channel's histogram: exact, and without a float copy of the images. A channel that never
    changes gets a deviation of 1. `positions` names the images that count; None for all. Of more than
    `COUNTED_IMAGES`, as many count as that, the same ones in every run and on every host.
    """
    positions = np.arange(len(images)) if positions is None else positions
    if len(positions) > COUNTED_IMAGES:
        chosen = np.random.default_rng(0).choice(len(positions), COUNTED_IMAGES, replace=False)
        positions = positions[np.sort(chosen)]
    counts = np.zeros((images.shape[-1], 256), np.int64)
    # `bincount` makes integers of 8 bytes of its input, so it is given a little at a time.
    rows = max(1, COUNTED_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(positions), rows):
        part = np.asarray(images[positions[start : start + rows]])
        counts += [np.bincount(part[..., c].ravel(), minlength=256) for c in range(part.shape[-1])]
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    std = np.where(std > 0, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
