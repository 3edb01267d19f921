"""Mix-up of labeled with unlabeled examples (paper section 3.3)."""

import jax
import jax.numpy as jnp
from jax import Array


def sample_lambda(key: Array, batch_size: int, *, gamma: float) -> Array:
    """λ_i ~ Beta(γ, γ), one for each example: [batch_size], JAX's default float, in [0, 1]."""
    if gamma == 1:
        # Beta(1, 1), as on CIFAR and ImageNet.
        return jax.random.uniform(key, (batch_size,))
    # JAX draws it from two gammas by rejection: 90 kernels on a GPU, and the host decides on each turn of the
    # loops. This is exact and has no loop (Devroye, "Non-Uniform Random Variate Generation", 1986, ch. IX):
    # 1. A point of the unit disc with a density ∝ (1 - r²)^(γ - 1/2) has a coordinate s;
    #    Y = (1 + s) / 2 ~ Beta(γ + 1, γ + 1).
    # 2. Y : 1 - Y is the ratio of two draws of Gamma(γ + 1). Such a draw times U^(1/γ) is one of Gamma(γ).
    # So λ : 1 - λ is Y·U^(1/γ) : (1 - Y)·V^(1/γ), here in logarithms.
    tiny = jnp.finfo(jnp.result_type(float)).tiny
    u, v, w, angle = jax.random.uniform(key, (4, batch_size), minval=tiny)
    s = jnp.sqrt(-jnp.expm1(jnp.log(w) / (gamma + 0.5))) * jnp.cos(2 * jnp.pi * angle)
    return jax.nn.sigmoid(jnp.log1p(s) - jnp.log1p(-s) + (jnp.log(u) - jnp.log(v)) / gamma)


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
