"""Pseudo-Label (Lee, 2013), as google-research/fixmatch `pseudo_label.py` has it."""

from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Method
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import confident, predictions


def pseudo_label(
    network: Network,
    *,
    meta: Meta | None = None,
    threshold: float = 0.95,
    consistency_weight: float = 1.0,
    rampup_share: float = 0.4,
    total_steps: int = 0,
) -> Method:
    """The most probable class of the weak view, where its probability exceeds `threshold`.

    Args:
      meta: moves the probabilities before the threshold.
      threshold: probability that must be exceeded, strictly, as in the original.
      consistency_weight: final weight of the cross-entropy, reached linearly after `rampup_share` of
        `total_steps`; with `total_steps` 0 it holds from the start.
      rampup_share: share of `total_steps` over which the weight rises.
      total_steps: steps of the whole run.
    """
    return semi_supervised(
        network,
        targets=predictions,
        select=confident(threshold, strictly=True),
        meta=meta,
        predict='same_pass',
        weight=linear_ramp(consistency_weight, rampup_share * total_steps),
    )
