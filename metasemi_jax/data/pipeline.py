"""From a dataset in memory to the batches of the step."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from metasemi_jax.batch import Batch
from metasemi_jax.data.augment import normalize, random_crop, random_flip
from metasemi_jax.data.dataset import Dataset, Images
from metasemi_jax.data.sampling import sample_stream
from metasemi_jax.sharding import process_rows

Array = jax.Array
PyTree = Any
LABELED_STREAM, UNLABELED_STREAM = 0, 1
COUNTED_BYTES = 1 << 24
COUNTED_IMAGES = 2048


class Pipeline(NamedTuple):
    """What stays on the devices, what the host sends each step, and how a batch is made of the two."""

    device_data: PyTree  # NumPy arrays, to be placed by the caller
    host_batches: Callable[[int], Iterator[PyTree]]  # start_step -> each step's rows of this process
    to_batch: Callable[[PyTree, PyTree, Array], Batch]  # (device_data, element, key), inside the jitted step


class Augmentation(NamedTuple):
    """How training images are varied and scaled."""

    pad: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resident_pipeline(
    dataset: Dataset,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """All training images on every device as uint8; the host sends nothing but indices.

    Args:
      dataset: its training split stays on the devices.
      labeled, unlabeled: positions of the two pools in it. An empty unlabeled pool gives batches with no
        unlabeled images, which labeled-only training accepts.
      batch_size: B of the labeled and of the unlabeled batch.
      seed: of the two streams of indices.
      augmentation: applied to labeled and unlabeled images alike.
      process_index, process_count: which of how many processes this is; each sends its rows of a batch.
    """
    rows = process_rows(batch_size, process_index, process_count)

    def host_batches(start_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = start_step
        while True:
            entries = {'start': step * batch_size, 'count': batch_size}
            yield tuple(
                pool[sample_stream(len(pool), (seed, stream), **entries)[rows]]
                for pool, stream in ((labeled, LABELED_STREAM), (unlabeled, UNLABELED_STREAM))
            )
            step += 1

    def to_batch(device_data: PyTree, indices: tuple[Array, Array], key: Array) -> Batch:
        images, labels = device_data
        labeled_key, unlabeled_key = jax.random.split(key)
        labeled_index, unlabeled_index = indices
        return Batch(
            labeled_images=augment(images[labeled_index], labeled_key, augmentation),
            labels=labels[labeled_index],
            unlabeled_images=augment(images[unlabeled_index], unlabeled_key, augmentation),
            unlabeled_labels=labels[unlabeled_index],
        )

    return Pipeline((dataset.train_images, dataset.train_labels), host_batches, to_batch)


def augment(images: Array, key: Array, augmentation: Augmentation) -> Array:
    """Random crop, perhaps a flip, then normalisation: uint8 [B, H, W, C] -> float32."""
    crop_key, flip_key = jax.random.split(key)
    images = random_crop(images, crop_key, pad=augmentation.pad)
    if augmentation.flip:
        images = random_flip(images, flip_key)
    return normalize(images, mean=augmentation.mean, std=augmentation.std)


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
