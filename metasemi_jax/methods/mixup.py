"""Mix-up of labeled with unlabeled examples (paper section 3.3)."""

import jax
import jax.numpy as jnp
from jax import Array


def sample_lambda(key: Array, batch_size: int, *, gamma: float) -> Array:
    """λ_i ~ Beta(γ, γ), one for each example: [batch_size], JAX's default float, in [0, 1]."""
    if gamma == 1:
        # Beta(1, 1), as on CIFAR and ImageNet. JAX would draw it from two gammas, in loops that reject.
        return jax.random.uniform(key, (batch_size,))
    return jax.random.beta(key, gamma, gamma, (batch_size,))


def interpolate(mixup_lambda: Array, first: Array, second: Array) -> Array:
    """λ·first + (1 - λ)·second, example by example (paper Eq. 10).

    Args:
      mixup_lambda: [B].
      first: [B, ...], labeled images or one-hot labels.
      second: the same shape and dtype, unlabeled images or pseudo-labels.

    Returns:
      The mixture, of the shape and dtype of `first`.
    """
    weight = jnp.asarray(mixup_lambda, first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    return weight * first + (1 - weight) * second
