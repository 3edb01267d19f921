"""Per-example losses; the caller reduces them (the paper sums one and averages the others).

`logits`, `probs` (of a softmax) and `targets` (not negative) are [B, K], float32 or wider; a loss is [B], of
their dtype.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def cross_entropy(*, logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label]: the labeled loss (paper Eq. 1).

    Args:
      labels: [B], integers in [0, K).
    """
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def kl_divergence(*, logits: Array, targets: Array) -> Array:
    """KL(targets ‖ softmax(logits)) with 0·log 0 = 0: the mix-up loss (paper Eq. 11).

    The entropy of the targets is kept, as in the authors' program: it moves no gradient, but the logged
    loss is then 0 where the model predicts its targets.

    Args:
      targets: their rows need not sum to 1 (an all-zero pseudo-label mixes to less).
    """
    return optax.losses.kl_divergence(jax.nn.log_softmax(logits), targets)


def squared_error(*, probs: Array, targets: Array) -> Array:
    """‖probs - targets‖² over the classes, without ½: the consistency loss Φ_MSE (paper Eq. 2)."""
    return jnp.sum(jnp.square(probs - targets), axis=-1)


def soft_cross_entropy(*, logits: Array, targets: Array) -> Array:
    """-Σ targets·log softmax(logits), for soft or one-hot targets."""
    return optax.losses.softmax_cross_entropy(logits, targets)


def brier_score(*, logits: Array, targets: Array) -> Array:
    """‖softmax(logits) - targets‖², summed over the classes: `squared_error` of logits."""
    return squared_error(probs=jax.nn.softmax(logits), targets=targets)


def mean_brier_score(*, logits: Array, targets: Array) -> Array:
    """`brier_score` divided by the number of classes, the "MSE" of Mean Teacher and others."""
    return jnp.mean(jnp.square(jax.nn.softmax(logits) - targets), axis=-1)
