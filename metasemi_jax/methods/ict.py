"""Interpolation consistency training (Verma et al., IJCAI 2019)."""

import jax
from jax import Array

from metasemi_jax.methods.losses import mean_brier_score
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.mixup import interpolate, sample_lambda
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import gaussian_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised


def ict(
    network: Network,
    *,
    meta: Meta | None = None,
    mixup_gamma: float = 1.0,
    consistency_weight: float = 100.0,
    rampup_share: float = 0.25,
    total_steps: int = 0,
) -> Method:
    """The teacher's predictions on two images, mixed, are the target of the two images mixed.

    Probabilities are mixed, as the paper writes it (Eq. 4); the authors' program mixes logits, with one λ for
    the batch, and mixes the labeled images too.

    Args:
      meta: moves the mixed targets.
      mixup_gamma: γ of λ ~ Beta(γ, γ), one λ for each image; 1.0 on CIFAR-10, 0.1 on SVHN.
      consistency_weight: final weight of the squared error (mean over the classes), reached along a
        Gaussian.
      rampup_share, total_steps: as in `pseudo_label`.
    """

    def targets(inputs: Inputs, key: Array) -> Targets:
        lambda_key, order_key = jax.random.split(key)
        images, probs = inputs.batch.unlabeled_images, jax.nn.softmax(inputs.weak_logits)
        mixup_lambda = sample_lambda(lambda_key, len(images), gamma=mixup_gamma)
        order = jax.random.permutation(order_key, len(images))
        mixed = interpolate(mixup_lambda, images, images[order])
        return Targets(interpolate(mixup_lambda, probs, probs[order]), images=mixed)

    return semi_supervised(
        network,
        targets=targets,
        meta=meta,
        predict='teacher',
        unlabeled_loss=mean_brier_score,
        weight=gaussian_ramp(consistency_weight, rampup_share * total_steps),
    )
