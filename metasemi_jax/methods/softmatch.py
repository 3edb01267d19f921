"""SoftMatch (Chen et al., ICLR 2023), as microsoft/Semi-supervised-learning `algorithms/softmatch` has it."""

import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import hard, predictions


def softmatch(
    network: Network,
    *,
    meta: Meta | None = None,
    momentum: float = 0.999,
    num_sigma: float = 2.0,
    consistency_weight: float = 1.0,
    batch_norm: str = 'joint',
) -> Method:
    """FixMatch with a truncated Gaussian weight instead of the threshold.

    The state is 'mean' μ and 'variance' σ² of the largest probability after uniform alignment, and
    'class_probs' p̃ [K]: moving averages that take this batch before they are used. p̃ is 0 before the first
    batch, and that batch's mean after it.

    Args:
      meta: moves the probabilities before they are weighed; the state follows the unmoved ones.
      momentum: share of the old average that is kept.
      num_sigma: n of the weight exp(-min(p - μ, 0)²/(2σ²/n²)).
      consistency_weight: weight of the unlabeled loss, constant.
      batch_norm: 'joint' as published, or 'labeled', which is cheaper: see `semi_supervised`.
    """

    def average(old: Array, new: Array) -> Array:
        return momentum * old + (1 - momentum) * new

    def select(targets: Targets, inputs: Inputs) -> Targets:
        probs, own, state = targets.labels, targets.initial, inputs.state
        seen = jnp.any(state['class_probs'] > 0)
        batch_mean = jnp.mean(own, axis=0)
        class_probs = jnp.where(seen, average(state['class_probs'], batch_mean), batch_mean)
        top = jnp.max(uniform_alignment(own, class_probs), axis=-1)
        state = {
            'mean': average(state['mean'], jnp.mean(top)),
            'variance': average(state['variance'], jnp.var(top, ddof=1)),
            'class_probs': class_probs,
        }
        below = jnp.minimum(jnp.max(uniform_alignment(probs, class_probs), axis=-1) - state['mean'], 0)
        weights = jnp.exp(-jnp.square(below) / (2 * state['variance'] / num_sigma**2))
        return hard(targets, weights, state=state)

    def init(num_classes: int, num_images: int) -> dict[str, Array]:
        del num_images
        return {
            'mean': jnp.asarray(1 / num_classes, float),
            'variance': jnp.ones((), float),
            'class_probs': jnp.zeros(num_classes, float),
        }

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


def uniform_alignment(probs: Array, class_probs: Array) -> Array:
    """probs·(1/K)/p̃, normalised: [n, K] (paper Eq. 9). 1e-6 is added to both as in USB."""
    aligned = probs * ((1 / probs.shape[-1] + 1e-6) / (class_probs + 1e-6))
    return aligned / jnp.sum(aligned, axis=-1, keepdims=True)
