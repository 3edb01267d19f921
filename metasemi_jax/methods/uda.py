"""Unsupervised data augmentation (Xie et al., NeurIPS 2020), as google-research/fixmatch `uda.py` has it."""

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.losses import kl_divergence
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised


def uda(
    network: Network,
    *,
    meta: Meta | None = None,
    temperature: float = 0.4,
    threshold: float = 0.8,
    consistency_weight: float = 1.0,
    batch_norm: str = 'joint',
) -> Method:
    """Sharpened predictions on the weak view are the targets of the strong one, where the network is sure.

    The temperature is applied here; USB's program never applies it.

    Args:
      meta: moves the targets.
      temperature: the logits are divided by it.
      threshold: least probability, before the sharpening, of the most probable class.
      consistency_weight: constant.
      batch_norm: 'joint' as published, or 'labeled', which is cheaper: see `semi_supervised`.
    """

    def targets(inputs: Inputs, key: Array) -> Targets:
        del key
        probs = jax.nn.softmax(inputs.weak_logits)
        weights = (jnp.max(probs, axis=-1) >= threshold).astype(probs.dtype)
        return Targets(jax.nn.softmax(inputs.weak_logits / temperature), weights, initial=probs)

    return semi_supervised(
        network,
        targets=targets,
        meta=meta,
        unlabeled_loss=kl_divergence,
        weight=consistency_weight,
        batch_norm=batch_norm,
        second_view='strong',
    )
