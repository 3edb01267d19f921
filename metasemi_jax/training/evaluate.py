"""The test error, exact for any number of images."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.distributed.sharding import place, process_rows, replicated, split_axis
from metasemi_jax.methods.losses import cross_entropy
from metasemi_jax.metrics import Metrics, mean_of
from metasemi_jax.training.compiler_options import deterministic_options

Array = jax.Array


TOP5_CLASSES = 100  # fewest classes for which the top-5 error is reported


class EvalData(NamedTuple):
    """A split on the devices, cut into equal batches; the last is filled up with images of label -1."""

    images: Array  # uint8 [batches, B, H, W, C]
    labels: Array  # int32 [batches, B]


class StreamedEvalData(NamedTuple):
    """A split whose batches every evaluation makes anew, as from image files."""

    # () -> EvalData of one batch [1, B, ...] each, all of one shape; the last filled up as in `EvalData`
    batches: Callable[[], Iterator[EvalData]]


def stream_eval_data(images: Any, labels: np.ndarray, *, batch_size: int, mesh: Mesh) -> StreamedEvalData:
    """`images`, an array or `StoredImages`, in batches as of `place_eval_data`: two are in memory at a time.

    Each process reads the images of its own devices.
    """
    size = _shared_size(min(batch_size, len(images)), mesh)
    rows = process_rows(size, jax.process_index(), jax.process_count())

    def batches() -> Iterator[EvalData]:
        for start in range(0, len(images), size):
            mine = slice(start + rows.start, start + rows.stop)
            pixels, known = np.asarray(images[mine]), labels[mine]
            padding = rows.stop - rows.start - len(known)
            pixels = np.pad(pixels, [(0, padding), (0, 0), (0, 0), (0, 0)]) if padding else pixels
            known = np.pad(known, (0, padding), constant_values=-1).astype(np.int32)
            yield place(EvalData(pixels[None], known[None]), split_axis(mesh, 1))

    return StreamedEvalData(batches)


def place_eval_data(images: np.ndarray, labels: np.ndarray, *, batch_size: int, mesh: Mesh) -> EvalData:
    """Place uint8 [N, H, W, C] and int [N] on the devices in batches of about `batch_size`, split among them.

    Every process gives all images, and keeps those of its devices. A batch is at most as large as the split,
    rounded up to a multiple of the number of devices.
    """
    size = _shared_size(min(batch_size, len(images)), mesh)
    padding = -len(images) % size
    images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), np.uint8)])
    labels = np.concatenate([labels, np.full(padding, -1)]).astype(np.int32)
    rows = process_rows(size, jax.process_index(), jax.process_count())
    batches = EvalData(images.reshape(-1, size, *images.shape[1:]), labels.reshape(-1, size))
    return place(jax.tree.map(lambda x: x[:, rows], batches), split_axis(mesh, 1))


def _shared_size(batch_size: int, mesh: Mesh) -> int:
    return -(-batch_size // mesh.size) * mesh.size


def make_evaluate(
    model: Any, normalize: Callable[[Array], Array], mesh: Mesh
) -> Callable[[dict, EvalData | StreamedEvalData], dict[str, float]]:
    """(variables, data) -> {'error': percent, 'loss': mean cross-entropy}, in evaluation mode.

    With 100 classes or more also 'error_top5', percent: the class is not among the five most probable.

    Args:
      model: `model.apply(variables, images, train=False)` -> logits.
      normalize: uint8 images -> what the model takes.
      mesh: the devices on which the data and, on each, the variables lie.

    Returns:
      The function; one compilation serves raw and EMA weights, every batch and every evaluation.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh), compiler_options=deterministic_options())
    def batch_metrics(variables: dict, data: EvalData, i: Array) -> Metrics:
        labels = data.labels[i]
        logits = model.apply(variables, normalize(data.images[i]), train=False)
        known = labels >= 0
        losses = cross_entropy(logits=logits, labels=jnp.where(known, labels, 0))
        # Percent before the division: 3400 / 500 is 6.8, 100 * (34 / 500) is 6.800000000000001.
        wrong = jnp.where(jnp.argmax(logits, axis=-1) != labels, 100, 0)
        measured = {'error': mean_of(wrong, where=known), 'loss': mean_of(losses, where=known)}
        if logits.shape[-1] >= TOP5_CLASSES:
            found = (jax.lax.top_k(logits, 5)[1] == labels[:, None]).any(axis=-1)
            measured['error_top5'] = mean_of(jnp.where(found, 0, 100), where=known)
        return measured

    def of_batches(variables: dict, data: EvalData | StreamedEvalData) -> Iterator[Metrics]:
        if isinstance(data, EvalData):
            yield from (batch_metrics(variables, data, np.int32(i)) for i in range(len(data.labels)))
            return
        previous = None
        for batch in data.batches():
            # One batch is made while the device works on another; no third one is held.
            jax.block_until_ready(previous)
            previous = batch_metrics(variables, batch, np.int32(0))
            yield previous

    def evaluate(variables: dict, data: EvalData | StreamedEvalData) -> dict[str, float]:
        batches = list(of_batches(variables, data))
        # Added up on the host in float64: a float32 sum of losses over many batches would drift.
        total = jax.tree.map(
            lambda *pairs: np.sum(np.asarray(pairs, np.float64), axis=0), *jax.device_get(batches)
        )
        return metrics.compute(total)

    return evaluate
