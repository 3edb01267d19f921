"""The test error, exact for any number of images."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax import metrics
from metasemi_jax.losses import cross_entropy
from metasemi_jax.metrics import Metrics, mean_of

Array = jax.Array


TOP5_CLASSES = 100  # from so many on


class EvalData(NamedTuple):
    """A split on the device, cut into equal batches; the last is filled up with images of label -1."""

    images: Array  # uint8 [batches, B, H, W, C]
    labels: Array  # int32 [batches, B]


class StreamedEvalData(NamedTuple):
    """A split on disk, or elsewhere: its batches are made anew by every evaluation."""

    # () -> (uint8 [B, H, W, C], int32 [B]) each, of one shape; the last filled up as in `EvalData`
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
    count: int  # of images


def stream_eval_data(images: Any, labels: np.ndarray, *, batch_size: int) -> StreamedEvalData:
    """`images`, an array or `StoredImages`, in batches of `batch_size`: two are in memory at a time."""
    size = min(batch_size, len(images))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(images), size):
            pixels, known = np.asarray(images[start : start + size]), labels[start : start + size]
            padding = size - len(pixels)
            yield (
                np.pad(pixels, [(0, padding), (0, 0), (0, 0), (0, 0)]) if padding else pixels,
                np.pad(known, (0, padding), constant_values=-1).astype(np.int32),
            )

    return StreamedEvalData(batches, len(images))


def place_eval_data(images: np.ndarray, labels: np.ndarray, *, batch_size: int) -> EvalData:
    """Place uint8 [N, H, W, C] and int [N] on the device in batches of at most `batch_size`."""
    size = min(batch_size, len(images))
    padding = -len(images) % size
    images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), np.uint8)])
    labels = np.concatenate([labels, np.full(padding, -1)]).astype(np.int32)
    return EvalData(
        jnp.asarray(images.reshape(-1, size, *images.shape[1:])), jnp.asarray(labels.reshape(-1, size))
    )


def make_evaluate(
    model: Any, normalize: Callable[[Array], Array]
) -> Callable[[dict, EvalData | StreamedEvalData], dict[str, float]]:
    """(variables, data) -> {'error': percent, 'loss': mean cross-entropy}, in evaluation mode.

    With 100 classes or more also 'error_top5', percent: the class is not among the five most probable.

    Args:
      model: `model.apply(variables, images, train=False)` -> logits.
      normalize: uint8 images -> what the model takes.

    Returns:
      The function; one compilation serves raw and EMA weights, every batch and every evaluation.
    """

    def batch_metrics(variables: dict, images: Array, labels: Array) -> Metrics:
        logits = model.apply(variables, normalize(images), train=False)
        known = labels >= 0
        losses = cross_entropy(logits=logits, labels=jnp.where(known, labels, 0))
        # Percent before the division: 3400 / 500 is 6.8, 100 * (34 / 500) is 6.800000000000001.
        wrong = jnp.where(jnp.argmax(logits, axis=-1) != labels, 100, 0)
        figures = {'error': mean_of(wrong, where=known), 'loss': mean_of(losses, where=known)}
        if logits.shape[-1] >= TOP5_CLASSES:
            found = (jax.lax.top_k(logits, 5)[1] == labels[:, None]).any(axis=-1)
            figures['error_top5'] = mean_of(jnp.where(found, 0, 100), where=known)
        return figures

    @jax.jit
    def resident_metrics(variables: dict, data: EvalData, i: Array) -> Metrics:
        return batch_metrics(variables, data.images[i], data.labels[i])

    streamed_metrics = jax.jit(batch_metrics)

    def of_batches(variables: dict, data: EvalData | StreamedEvalData) -> Iterator[Metrics]:
        if isinstance(data, EvalData):
            yield from (resident_metrics(variables, data, np.int32(i)) for i in range(len(data.labels)))
            return
        previous = None
        for images, labels in data.batches():
            # One batch is made while the device is at work on another, no more.
            jax.block_until_ready(previous)
            previous = streamed_metrics(variables, images, labels)
            yield previous

    def evaluate(variables: dict, data: EvalData | StreamedEvalData) -> dict[str, float]:
        batches = list(of_batches(variables, data))
        # Added up on the host in float64: a float32 sum of losses over many batches would drift.
        total = jax.tree.map(
            lambda *pairs: np.sum(np.asarray(pairs, np.float64), axis=0), *jax.device_get(batches)
        )
        return metrics.compute(total)

    return evaluate
