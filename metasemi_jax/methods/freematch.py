"""FreeMatch (Wang et al., ICLR 2023), as microsoft/Semi-supervised-learning `algorithms/freematch` has it."""

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import hard, predictions


def freematch(
    network: Network,
    *,
    meta: Meta | None = None,
    momentum: float = 0.999,
    most: float = 1.0,
    fairness_weight: float = 0.001,
    consistency_weight: float = 1.0,
    batch_norm: str = 'joint',
) -> Method:
    """FixMatch with thresholds that follow the network's confidence, and a fairness term.

    The state is 'threshold' t, 'class_probs' p̃ [K] and 'histogram' [K] of the predicted classes: moving
    averages that take this batch before they are used.

    Args:
      meta: moves the probabilities before the threshold; the state follows the unmoved ones.
      momentum: share of the old average that is kept.
      most: largest threshold t; 0.95 on SVHN.
      fairness_weight: weight of the self-adaptive fairness term; 0 for none.
      consistency_weight: weight of the unlabeled loss, constant.
      batch_norm: 'joint' as published, or 'labeled', which is cheaper: see `semi_supervised`.
    """

    def select(targets: Targets, inputs: Inputs) -> Targets:
        probs, own = targets.labels, targets.initial
        classes = jax.nn.one_hot(jnp.argmax(own, axis=-1), own.shape[-1], dtype=own.dtype)
        now = {
            'threshold': jnp.mean(jnp.max(own, axis=-1)),
            'class_probs': jnp.mean(own, axis=0),
            'histogram': jnp.mean(classes, axis=0),
        }
        state = jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, inputs.state, now)
        state['threshold'] = jnp.clip(state['threshold'], 0, most)
        tau = state['threshold'] * state['class_probs'] / jnp.max(state['class_probs'])
        kept = jnp.max(probs, axis=-1) >= tau[jnp.argmax(probs, axis=-1)]
        return hard(targets, kept, state=state)

    def init(num_classes: int, num_images: int) -> dict[str, Array]:
        del num_images
        uniform = jnp.full(num_classes, 1 / num_classes, float)
        return {'threshold': uniform[0], 'class_probs': uniform, 'histogram': uniform}

    def fairness(forward, logits: Array, found: Targets, inputs: Inputs) -> Array:
        del forward, inputs
        return fairness_weight * fairness_term(logits, found.aux['kept'].astype(logits.dtype), found.state)

    return semi_supervised(
        network,
        targets=predictions,
        select=select,
        meta=meta,
        weight=consistency_weight,
        extra=fairness if fairness_weight else None,
        batch_norm=batch_norm,
        init=init,
        second_view='strong',
    )


def fairness_term(logits: Array, weights: Array, state: dict[str, Array]) -> Array:
    """Self-adaptive fairness: Σ a·log b over the classes, of the images that count alone (Eq. 11 and 12).

    a is p̃ over the histogram of all weak views; b is the mean prediction on the strong view over the
    histogram of its classes; both are normalised. A class that is missing from a histogram is 0 there.

    Args:
      logits: [n, K], logits of the strong view.
      weights: [n], 0 or 1.
      state: the state of `freematch`.

    Returns:
      Scalar; 0 where no image counts.
    """
    probs = jax.nn.softmax(logits)
    count = jnp.sum(weights)
    share = weights / jnp.maximum(count, 1)
    classes = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1], dtype=probs.dtype)
    a = state['class_probs'] * _inverse(state['histogram'])
    # By default accelerators multiply float32 in TF32 or bfloat16.
    with jax.default_matmul_precision('highest'):
        b = (share @ probs) * _inverse(share @ classes)
    a = a / jnp.sum(a)
    # The divisor is 0 where no image counts, and its gradient must not be NaN there.
    total = jnp.sum(b)
    b = b / jnp.where(total > 0, total, 1)
    return jnp.where(count > 0, jnp.sum(a * jnp.log(b + 1e-12)), 0)


def _inverse(values: Array) -> Array:
    return jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
