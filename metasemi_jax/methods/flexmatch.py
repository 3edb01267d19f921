"""FlexMatch (Zhang et al., NeurIPS 2021), as microsoft/Semi-supervised-learning `flexmatch` has it."""

import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import hard, predictions


def flexmatch(
    network: Network,
    *,
    meta: Meta | None = None,
    threshold: float = 0.95,
    consistency_weight: float = 1.0,
    batch_norm: str = 'joint',
) -> Method:
    """FixMatch with a threshold of its own for each class, lower where fewer images are learnt.

    The state is 'last_class' [N], the class of which the network was last sure for each image, -1 at first.
    At the start every threshold is 0. USB leaves its thresholds as they are while all images are of one
    class; here they follow the formula.

    Args:
      meta: moves the probabilities before the threshold; the state follows the unmoved ones.
      threshold: τ, of a class that is learnt best.
      consistency_weight: constant.
      batch_norm: 'joint' as published, or 'labeled', which is cheaper: see `semi_supervised`.
    """

    def select(targets: Targets, inputs: Inputs) -> Targets:
        last = inputs.state['last_class']
        probs, own = targets.labels, targets.initial
        tau = class_thresholds(last, probs.shape[-1], threshold).astype(probs.dtype)
        sure = jnp.max(own, axis=-1) >= threshold
        # Rows that are not sure write nowhere: writing back their old class could undo an image drawn twice.
        ids = jnp.where(sure, inputs.batch.unlabeled_ids, len(last))
        last = last.at[ids].set(jnp.argmax(own, axis=-1).astype(last.dtype), mode='drop')
        kept = jnp.max(probs, axis=-1) >= tau[jnp.argmax(probs, axis=-1)]
        return hard(targets, kept, state={'last_class': last})

    def init(num_classes: int, num_images: int) -> dict[str, Array]:
        del num_classes
        return {'last_class': jnp.full(num_images, -1, jnp.int32)}

    return semi_supervised(
        network,
        targets=predictions,
        select=select,
        meta=meta,
        weight=consistency_weight,
        batch_norm=batch_norm,
        init=init,
        second_view='strong',
    )


def class_thresholds(last_class: Array, num_classes: int, threshold: float) -> Array:
    """τ·a/(2 - a) with a_k = (images of class k) / (largest of these numbers, and of the undecided): [K].

    Paper Eq. 5 and 11; the undecided, -1, are counted as in the paper's warm-up.
    """
    counts = jnp.bincount(last_class + 1, length=num_classes + 1)
    learnt = counts[1:].astype(float) / jnp.maximum(jnp.max(counts), 1).astype(float)
    return threshold * learnt / (2 - learnt)
