"""A classifier as two pure functions: all that a method knows of a network."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
from jax import Array

Variables = dict[str, Any]  # {'params': ..., 'batch_stats': ...}


class Network(NamedTuple):
    """Logits [B, K] of images [B, H, W, C]."""

    # (variables, images) -> logits, in evaluation mode: running statistics, no dropout
    logits: Callable[[Variables, Array], Array]
    # (variables, images, dropout key or None) -> (logits, new batch_stats), in training mode
    train_logits: Callable[[Variables, Array, Array | None], tuple[Array, Any]]


def as_network(model: Any, *, undropped_statistics: bool = False, frozen: Collection[str] = ()) -> Network:
    """The network of a Flax model: `model.apply(variables, images, train=...)` -> logits.

    A `Network` is returned as it is. Without a key dropout is off in this package's models; other Flax models
    may insist on one.

    Args:
      model: a Flax model, or a `Network`.
      undropped_statistics: take the new running statistics from a pass without dropout. Dropout of whole
        feature maps doubles the variances that the next BatchNorm sees, and evaluation mode does not drop:
        with the usual statistics its predictions are flatter. Each training pass costs one forward pass more.
      frozen: names of the layers whose parameters get no gradient, and cost no backward pass.
    """
    if isinstance(model, Network):
        return model

    def held(variables: Variables) -> Variables:
        if not frozen:
            return variables
        params = {
            name: jax.lax.stop_gradient(layer) if name in frozen else layer
            for name, layer in variables['params'].items()
        }
        return variables | {'params': params}

    def logits(variables: Variables, images: Array) -> Array:
        return model.apply(held(variables), images, train=False)

    def train_logits(variables: Variables, images: Array, key: Array | None) -> tuple[Array, Any]:
        variables, rngs = held(variables), None if key is None else {'dropout': key}
        logits, updates = model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)
        if undropped_statistics and rngs:
            _, updates = model.apply(variables, images, train=True, mutable=['batch_stats'])
        return logits, updates.get('batch_stats', {})

    return Network(logits, train_logits)
