"""Temporal ensembling (Laine and Aila, ICLR 2017), as smlaine2/tempens has it."""

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.losses import mean_brier_score
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import gaussian_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised


def temporal_ensembling(
    network: Network,
    *,
    meta: Meta | None = None,
    momentum: float = 0.6,
    consistency_weight: float = 30.0,
    rampup_share: float = 80 / 300,
    total_steps: int = 0,
) -> Method:
    """An image's target is the moving average of the predictions of its earlier visits.

    The original updates the averages after each epoch; where each image is drawn once an epoch, as here, that
    is the same as after each visit. The state is 'ensemble' Z [N, K] and 'count' [N], the visits so far.

    Args:
      meta: moves the targets.
      momentum: α.
      consistency_weight: final weight of the squared error (mean over the classes): 30 on CIFAR-10 and SVHN,
        100 on CIFAR-100. Reached along a Gaussian after `rampup_share` of `total_steps`.
      rampup_share, total_steps: as in `pseudo_label`.
    """

    def targets(inputs: Inputs, key: Array) -> Targets:
        del key
        ensemble, count = inputs.state['ensemble'], inputs.state['count']
        ids = inputs.batch.unlabeled_ids
        probs = jax.nn.softmax(inputs.weak_logits).astype(ensemble.dtype)
        visits = count[ids]
        # The average starts at 0: divide by the sum of its weights. Images of no visit have weight 0.
        share = jnp.where(visits > 0, 1 - momentum ** visits.astype(ensemble.dtype), 1)
        new = momentum * ensemble[ids] + (1 - momentum) * probs
        # An image that is twice in the batch is averaged, and counted, once.
        state = {'ensemble': ensemble.at[ids].set(new), 'count': count.at[ids].set(visits + 1)}
        return Targets(ensemble[ids] / share[:, None], (visits > 0).astype(probs.dtype), state=state)

    def init(num_classes: int, num_images: int) -> dict[str, Array]:
        return {
            'ensemble': jnp.zeros((num_images, num_classes), float),
            'count': jnp.zeros(num_images, jnp.int32),
        }

    return semi_supervised(
        network,
        targets=targets,
        meta=meta,
        predict='same_pass',
        unlabeled_loss=mean_brier_score,
        weight=gaussian_ramp(consistency_weight, rampup_share * total_steps),
        init=init,
    )
