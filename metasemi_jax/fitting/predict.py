"""Class probabilities of a network whose settings and weights are plain Python and NumPy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from metasemi_jax.data.batches.views import Statistics, normalize_by, statistics_of
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.training.experiment import build_model

# All batches have this size, so that the probabilities of an example do not depend on its neighbours.
BATCH = 128


def predict_probs(
    config: dict[str, Any], variables: dict, form: InputSpec, num_classes: int, examples: np.ndarray
) -> np.ndarray:
    """Probabilities, float64 [N, K].

    Args:
      variables: {'params': ..., 'batch_stats': ...}, NumPy arrays.
      form: form of the examples that the network takes.
      examples: [N, ...] as `form` says.
    """
    model, _ = build_model(ml_collections.ConfigDict(config), num_classes)
    run = _program(model)
    variables, statistics = jax.device_put((variables, statistics_of(form.mean, form.std)))
    parts = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        padding = [(0, BATCH - len(batch))] + [(0, 0)] * (batch.ndim - 1)
        parts.append(run(variables, statistics, np.pad(batch, padding))[: len(batch)])
    probs = np.concatenate([np.asarray(part, np.float64) for part in parts])
    return probs / probs.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=16)
def _program(model: Any) -> Callable[[dict, Statistics, np.ndarray], jax.Array]:
    def probs(variables: dict, statistics: Statistics, examples: jax.Array) -> jax.Array:
        return jax.nn.softmax(model.apply(variables, normalize_by(statistics, examples), train=False))

    return jax.jit(probs)
