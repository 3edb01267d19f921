"""Metrics as (sum, count) pairs on the device, divided once on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Metrics = dict[str, Array]  # name -> float32 [2]: sum, count


def mean_of(values: Array, where: Array | None = None) -> Array:
    """The pair (sum, count) of `values`, of any shape, over the entries that `where` keeps (default all)."""
    values = values.astype(jnp.float32)
    kept = jnp.ones(values.shape, bool) if where is None else where
    total = jnp.sum(jnp.where(kept, values, jnp.zeros_like(values)))
    return jnp.stack([total, jnp.sum(kept.astype(jnp.float32))])


def entropy(probs: Array) -> Array:
    """-Σ p·log p of each row of [..., K], in nats, with 0·log 0 = 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def pseudo_label_metrics(when: str, pseudo_labels: Array, labels: Array | None) -> Metrics:
    """Entropy (nats) of pseudo-labels [B, K], and accuracy where the true labels [B] are known (not -1)."""
    metrics = {f'pseudo_label_entropy_{when}': mean_of(entropy(pseudo_labels))}
    if labels is not None:
        # A row that the update emptied names no class, and would count as the first.
        named = jnp.max(pseudo_labels, axis=-1) > 0
        correct = named & (jnp.argmax(pseudo_labels, axis=-1) == labels)
        metrics[f'pseudo_label_accuracy_{when}'] = mean_of(correct, where=labels >= 0)
    return metrics


@jax.jit
def add(first: Metrics, second: Metrics) -> Metrics:
    """Sums and counts of two windows together."""
    return jax.tree.map(jnp.add, first, second)


def compute(metrics: Metrics) -> dict[str, float]:
    """Means as Python floats; a metric without a single entry is left out. Waits for the device."""
    host = {name: np.asarray(pair, float) for name, pair in jax.device_get(metrics).items()}
    return {name: float(total / count) for name, (total, count) in host.items() if count > 0}


@jax.jit
def all_finite(tree: Any) -> Array:
    """Whether no entry of any array is infinite or NaN: bool scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
