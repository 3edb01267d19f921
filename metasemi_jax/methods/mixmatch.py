"""MixMatch (Berthelot et al., NeurIPS 2019), as google-research/mixmatch has it."""

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.losses import mean_brier_score
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.mixup import interpolate, sample_lambda
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import sharpen


def mixmatch(
    network: Network,
    *,
    meta: Meta | None = None,
    temperature: float = 0.5,
    mixup_gamma: float = 0.75,
    consistency_weight: float = 75.0,
    rampup_share: float = 1 / 64,
    total_steps: int = 0,
) -> Method:
    """The sharpened mean of two views' predictions, labeled and unlabeled images mixed with one another.

    The program interleaves the batches for its BatchNorm alone. Here nothing is interleaved: the mixed
    labeled batch moves the running statistics.

    Args:
      meta: moves the mixed targets of the unlabeled part.
      temperature: T of `sharpen`; less than 1 sharpens.
      mixup_gamma: α of λ ~ Beta(α, α), then max(λ, 1 - λ), one for each image.
      consistency_weight: final weight of the squared error (mean over the classes), reached linearly: 75 on
        CIFAR-10, 150 on CIFAR-100, 250 on SVHN.
      rampup_share, total_steps: as in `pseudo_label`.
    """

    def targets(inputs: Inputs, key: Array) -> Targets:
        lambda_key, order_key = jax.random.split(key)
        batch = inputs.batch
        second_logits = inputs.predict(batch.strong_images)
        mean = (jax.nn.softmax(inputs.weak_logits) + jax.nn.softmax(second_logits)) / 2
        guess = sharpen(mean, temperature)
        one_hot = jax.nn.one_hot(batch.labels, guess.shape[-1], dtype=guess.dtype)
        images = jnp.concatenate([batch.labeled_images, batch.unlabeled_images, batch.strong_images])
        labels = jnp.concatenate([one_hot, guess, guess])
        drawn = sample_lambda(lambda_key, len(images), gamma=mixup_gamma)
        mixup_lambda = jnp.maximum(drawn, 1 - drawn)
        order = jax.random.permutation(order_key, len(images))
        images = interpolate(mixup_lambda, images, images[order])
        labels = interpolate(mixup_lambda, labels, labels[order])
        count = len(batch.labels)
        labeled = images[:count], labels[:count]
        return Targets(labels[count:], images=images[count:], labeled=labeled, initial=guess)

    return semi_supervised(
        network,
        targets=targets,
        meta=meta,
        unlabeled_loss=mean_brier_score,
        weight=linear_ramp(consistency_weight, rampup_share * total_steps),
        second_view='weak',
    )
