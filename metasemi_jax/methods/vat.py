"""Virtual adversarial training (Miyato et al., 2018), as google-research/fixmatch `vat.py` has it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.losses import kl_divergence
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised


def vat(
    network: Network,
    *,
    meta: Meta | None = None,
    radius: float = 6.0,
    xi: float = 0.0,
    entropy_weight: float = 0.06,
    consistency_weight: float = 0.3,
    rampup_share: float = 0.4,
    total_steps: int = 0,
) -> Method:
    """The prediction on an image is the target of the image moved where the prediction changes most.

    One power iteration finds the direction. All passes share their dropout masks, so that only the images
    differ. The loss is KL(P(w) ‖ P(w + r)), as Miyato et al. define it; Google's program takes the
    two distributions in the other order.

    Args:
      meta: moves the targets.
      radius: ‖r‖₂ of an image, normalised.
      xi: length of the trial step, 1e-6 in the original. In float32 such a step leaves little but rounding
        noise; 0 is its limit, one Jacobian-vector product, which is exact.
      entropy_weight: weight of the mean entropy of P(w), not ramped up; 0 for VAT without entropy
        minimisation.
      consistency_weight: final weight of the KL divergence, reached linearly after `rampup_share` of
        `total_steps`.
      rampup_share, total_steps: as in `pseudo_label`.
    """

    def targets(inputs: Inputs, key: Array) -> Targets:
        images = inputs.batch.unlabeled_images
        probs = jax.nn.softmax(inputs.weak_logits)
        noise = _normalised(jax.random.normal(key, images.shape, images.dtype))
        direction = _direction(inputs.predict, images, probs, noise, xi)
        return Targets(probs, images=images + radius * direction)

    def entropy(forward: Callable[[Array], Array], logits: Array, found: Targets, inputs: Inputs) -> Array:
        del logits, found
        clean = forward(inputs.batch.unlabeled_images)
        entropies = -jnp.sum(jax.nn.softmax(clean) * jax.nn.log_softmax(clean), axis=-1)
        return entropy_weight * jnp.mean(entropies)

    return semi_supervised(
        network,
        targets=targets,
        meta=meta,
        predict='same_pass',
        unlabeled_loss=kl_divergence,
        weight=linear_ramp(consistency_weight, rampup_share * total_steps),
        extra=entropy if entropy_weight else None,
    )


def _direction(
    predict: Callable[[Array], Array], images: Array, probs: Array, noise: Array, xi: float
) -> Array:
    """Unit vectors along the gradient of KL(P(w) ‖ P(w + d)) at d = ξ·noise: the shape of `images`."""

    def divergence(moved: Array) -> Array:
        return jnp.mean(kl_divergence(logits=predict(images + moved), targets=probs))

    if xi:
        return _normalised(jax.grad(divergence)(xi * noise))
    # The gradient is 0 at d = 0 and grows along the noise by the Hessian's product with it.
    _, growth = jax.jvp(jax.grad(divergence), (jnp.zeros_like(noise),), (noise,))
    return _normalised(growth)


def _normalised(vectors: Array) -> Array:
    # By the largest entry first, lest squares of tiny gradients vanish in float32.
    axes = tuple(range(1, vectors.ndim))
    vectors = vectors / (1e-12 + jnp.max(jnp.abs(vectors), axis=axes, keepdims=True))
    return vectors / jnp.sqrt(1e-6 + jnp.sum(vectors**2, axis=axes, keepdims=True))
