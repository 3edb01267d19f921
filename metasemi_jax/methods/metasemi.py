"""MetaSemi (Zhang et al., AISTATS 2021), as its authors' program has it."""

from collections.abc import Callable

import jax
from jax import Array

from metasemi_jax.methods.losses import brier_score, kl_divergence
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.mixup import interpolate, sample_lambda
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import predictions, sharp_predictions

MOVED_LABELS = Meta()


def metasemi(
    network: Network,
    *,
    meta: Meta | None = MOVED_LABELS,
    mixup: bool = True,
    mixup_gamma: float = 1.0,
    consistency_weight: float = 1.0,
    rampup_steps: int = 4000,
    second_view: str | None = None,
    temperature: float = 1.0,
) -> Method:
    """Pseudo-labels moved against the meta-gradient, and mix-up with them (Algorithm 2).

    The paper's ablation:

        labeled only   meta=None, mixup=False
        meta only      mixup=False
        mix-up only    meta=None: mixes with the network's own predictions, no consistency term
        MetaSemi       both

    Args:
      meta: moves the network's own predictions, made in evaluation mode; None: they stay.
      mixup: whether each labeled image is mixed with an unlabeled one.
      mixup_gamma: γ of λ ~ Beta(γ, γ), one for each pair.
      consistency_weight: w_t, reached linearly after `rampup_steps`.
      rampup_steps: steps after which w_t is reached.
      second_view: the view of the unlabeled images that the consistency loss sees: another 'weak' one, or a
        'strong' one. The pseudo-labels are those of the first view. None, as in the paper: the first view.
      temperature: divides the logits of the pseudo-labels; less than 1 sharpens them. 1, as in the paper,
        changes nothing.
    """

    def draw(key: Array, count: int) -> Array:
        return sample_lambda(key, count, gamma=mixup_gamma)

    return metasemi_from(
        network,
        meta,
        draw if mixup else None,
        linear_ramp(consistency_weight, rampup_steps),
        targets=predictions if temperature == 1 else sharp_predictions(temperature),
        second_view=second_view,
    )


def metasemi_from(
    network: Network,
    meta: Meta | None,
    draw_lambda: Callable[[Array, int], Array] | None,
    weight: Callable[[Array], Array],
    *,
    targets: Callable[[Inputs, Array], Targets] = predictions,
    second_view: str | None = None,
) -> Method:
    """`metasemi` from functions: (key, count) -> λ [count], or None; step -> w_t."""

    def mix(found: Targets, inputs: Inputs, key: Array) -> Targets:
        batch, pseudo_labels = inputs.batch, found.labels
        count = len(batch.labels)
        mixup_lambda = draw_lambda(key, count)
        # In the precision of the logits: float64 runs would lose it where the images are stored in float32.
        labeled = batch.labeled_images.astype(pseudo_labels.dtype)
        unlabeled = batch.unlabeled_images[:count].astype(pseudo_labels.dtype)
        one_hot = jax.nn.one_hot(batch.labels, pseudo_labels.shape[-1], dtype=pseudo_labels.dtype)
        labels = interpolate(mixup_lambda, one_hot, pseudo_labels[:count])
        return found._replace(labeled=(interpolate(mixup_lambda, labeled, unlabeled), labels))

    return semi_supervised(
        network,
        targets=None if meta is None and draw_lambda is None else targets,
        meta=meta,
        mix=None if draw_lambda is None else mix,
        predict='evaluation',
        labeled_loss=kl_divergence,
        unlabeled_loss=None if meta is None else brier_score,
        weight=weight,
        batch_norm='every',
        second_view=second_view,
    )
