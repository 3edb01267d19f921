"""Targets that several methods share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.method import Inputs, Targets


def predictions(inputs: Inputs, key: Array) -> Targets:
    """P(w): what the network makes of the weak view."""
    del key
    return Targets(jax.nn.softmax(inputs.weak_logits))


def sharp_predictions(temperature: float) -> Callable[[Inputs, Array], Targets]:
    """`predictions` with the logits divided by `temperature`, as UDA sharpens them."""

    def targets(inputs: Inputs, key: Array) -> Targets:
        del key
        return Targets(jax.nn.softmax(inputs.weak_logits / temperature))

    return targets


def sharpen(probs: Array, temperature: float) -> Array:
    """probs^(1/T), normalised: [n, K] (MixMatch, Eq. 7)."""
    powered = probs ** (1 / temperature)
    return powered / jnp.sum(powered, axis=-1, keepdims=True)


def hard(targets: Targets, weights: Array, state=None) -> Targets:
    """The most probable class of soft labels, one-hot, with `weights` [n]; logs the share with any weight."""
    labels = targets.labels
    one_hot = jax.nn.one_hot(jnp.argmax(labels, axis=-1), labels.shape[-1], dtype=labels.dtype)
    weights = weights.astype(labels.dtype)
    return targets._replace(labels=one_hot, weights=weights, state=state).add_aux(kept=weights > 0)


def confident(threshold: float, *, strictly: bool = False) -> Callable[[Targets, Inputs], Targets]:
    """Selects the most probable class where its probability is `threshold` or more; `strictly`: more."""

    def select(targets: Targets, inputs: Inputs) -> Targets:
        del inputs
        top = jnp.max(targets.labels, axis=-1)
        return hard(targets, top > threshold if strictly else top >= threshold)

    return select
