"""The test error, exact for any number of images."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.distributed.sharding import place, process_rows, replicated, split_axis
from metasemi_jax.methods.losses import cross_entropy
from metasemi_jax.metrics import Metrics, mean_of
from metasemi_jax.training.compiler_options import deterministic_options

TOP5_CLASSES = 100  # fewest classes for which the top-5 error is reported


class EvalBatch(NamedTuple):
    """A batch of a split on the devices; the last one of a split is filled up with images of label -1."""

    images: Array  # uint8 [B, H, W, C]
    labels: Array  # int32 [B]


EvalData = Callable[[], Iterable[EvalBatch]]  # the batches of a split, all of one shape, for each evaluation


def stream_eval_data(images: Any, labels: np.ndarray, *, batch_size: int, mesh: Mesh) -> EvalData:
    """Batches of about `batch_size` that every evaluation makes anew: two are in memory at a time.

    Each process reads the images of its own devices. A batch is at most as large as the split, rounded up to
    a multiple of the number of devices.

    Args:
      images: uint8 [N, H, W, C], an array or `StoredImages`.
      labels: int [N].
    """
    size = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    rows = process_rows(size, jax.process_index(), jax.process_count())

    def batches() -> Iterator[EvalBatch]:
        for start in range(0, len(images), size):
            mine = slice(start + rows.start, start + rows.stop)
            pixels, known = np.asarray(images[mine]), labels[mine].astype(np.int32)
            padding = rows.stop - rows.start - len(known)
            if padding:
                pixels = np.pad(pixels, [(0, padding), *[(0, 0)] * (pixels.ndim - 1)])
            known = np.pad(known, (0, padding), constant_values=-1)
            yield place(EvalBatch(pixels, known), split_axis(mesh, 0))

    return batches


def place_eval_data(images: np.ndarray, labels: np.ndarray, *, batch_size: int, mesh: Mesh) -> EvalData:
    """The batches of `stream_eval_data`, made once, to stay on the devices."""
    batches = list(stream_eval_data(images, labels, batch_size=batch_size, mesh=mesh)())
    return lambda: batches


def make_evaluate(
    model: Any, normalize: Callable[[Array], Array], mesh: Mesh
) -> Callable[[dict, EvalData], dict[str, float]]:
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
    def batch_metrics(variables: dict, batch: EvalBatch) -> Metrics:
        labels = batch.labels
        logits = model.apply(variables, normalize(batch.images), train=False)
        known = labels >= 0
        losses = cross_entropy(logits=logits, labels=jnp.where(known, labels, 0))
        # Percent before the division: 3400 / 500 is 6.8, 100 * (34 / 500) is 6.800000000000001.
        wrong = jnp.where(jnp.argmax(logits, axis=-1) != labels, 100, 0)
        measured = {'error': mean_of(wrong, where=known), 'loss': mean_of(losses, where=known)}
        if logits.shape[-1] >= TOP5_CLASSES:
            found = (jax.lax.top_k(logits, 5)[1] == labels[:, None]).any(axis=-1)
            measured['error_top5'] = mean_of(jnp.where(found, 0, 100), where=known)
        return measured

    def evaluate(variables: dict, data: EvalData) -> dict[str, float]:
        found = []
        for batch in data():
            # One batch is made while the device works on another; no third one is held.
            jax.block_until_ready(found[-1:])
            found.append(batch_metrics(variables, batch))
        # Added up on the host in float64: a float32 sum of losses over many batches would drift.
        total = jax.tree.map(
            lambda *pairs: np.sum(np.asarray(pairs, np.float64), axis=0), *jax.device_get(found)
        )
        return metrics.compute(total)

    return evaluate
