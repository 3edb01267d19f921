"""Labeled images alone, the baseline of every comparison."""

from metasemi_jax.methods.method import Method
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.semi_supervised import semi_supervised


def supervised(network: Network) -> Method:
    """Cross-entropy of the labeled batch."""
    return semi_supervised(network, targets=None)
