"""FixMatch (Sohn et al., NeurIPS 2020), as google-research/fixmatch `fixmatch.py` has it."""

from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Method
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import confident, predictions


def fixmatch(
    network: Network,
    *,
    meta: Meta | None = None,
    threshold: float = 0.95,
    consistency_weight: float = 1.0,
    batch_norm: str = 'joint',
) -> Method:
    """The most probable class of the weak view, where the network is sure, is the target of the strong view.

    With `meta` this is MetaSemi and FixMatch in one, which the authors of MetaSemi name as future work: the
    probabilities of the weak view move before the threshold.

    Args:
      meta: moves the probabilities before the threshold.
      threshold: least probability of the most probable class.
      consistency_weight: constant.
      batch_norm: 'joint' as published, or 'labeled', which is cheaper: see `semi_supervised`.
    """
    return semi_supervised(
        network,
        targets=predictions,
        select=confident(threshold),
        meta=meta,
        weight=consistency_weight,
        batch_norm=batch_norm,
        second_view='strong',
    )
