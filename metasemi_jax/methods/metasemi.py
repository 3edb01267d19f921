"""MetaSemi (Zhang et al., AISTATS 2021), as its authors' program has it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasemi_jax.batch import Batch
from metasemi_jax.losses import brier_score, kl_divergence
from metasemi_jax.methods.meta import Meta, labeled_loss
from metasemi_jax.methods.method import Inputs, Keys, Method, Targets
from metasemi_jax.methods.network import Network, as_network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import predictions
from metasemi_jax.mixup import interpolate, sample_lambda

Array = jax.Array
Params = Any
MOVED_LABELS = Meta()


def metasemi(
    network: Network,
    *,
    meta: Meta | None = MOVED_LABELS,
    mixup: bool = True,
    mixup_gamma: float = 1.0,
    consistency_weight: float = 1.0,
    rampup_steps: int = 4000,
) -> Method:
    """Pseudo-labels moved against the meta-gradient, and mix-up with them (Algorithm 2).

    The paper's ablation:

        labeled only   meta=None, mixup=False
        meta only      mixup=False
        mix-up only    meta=None: mixes with the network's own predictions, no consistency term
        MetaSemi       both

    Args:
      network: the student.
      meta: of its own predictions in evaluation mode.
      mixup: of each labeled image with an unlabeled one.
      mixup_gamma: γ of λ ~ Beta(γ, γ), one for each pair.
      consistency_weight: w_t, reached linearly after `rampup_steps`.
      rampup_steps: steps, of the recipe.
    """
    if not mixup:
        return _metasemi(network, meta, None, linear_ramp(consistency_weight, rampup_steps))

    def draw(key: Array, count: int) -> Array:
        return sample_lambda(key, count, gamma=mixup_gamma)

    return _metasemi(network, meta, draw, linear_ramp(consistency_weight, rampup_steps))


def _metasemi(
    network: Network,
    meta: Meta | None,
    draw_lambda: Callable[[Array, int], Array] | None,
    weight: Callable[[Array], Array],
) -> Method:
    def mix(targets: Targets, inputs: Inputs, key: Array) -> Targets:
        batch, pseudo_labels = inputs.batch, targets.labels
        count = len(batch.labels)
        mixup_lambda = draw_lambda(key, count)
        # In the precision of the logits: float64 runs would lose it where the images are stored in float32.
        labeled = batch.labeled_images.astype(pseudo_labels.dtype)
        unlabeled = batch.unlabeled_images[:count].astype(pseudo_labels.dtype)
        one_hot = jax.nn.one_hot(batch.labels, pseudo_labels.shape[-1], dtype=pseudo_labels.dtype)
        labels = interpolate(mixup_lambda, one_hot, pseudo_labels[:count])
        return targets._replace(labeled=(interpolate(mixup_lambda, labeled, unlabeled), labels))

    return semi_supervised(
        network,
        targets=None if meta is None and draw_lambda is None else predictions,
        meta=meta,
        mix=None if draw_lambda is None else mix,
        predict='evaluation',
        labeled_loss=kl_divergence,
        unlabeled_loss=None if meta is None else brier_score,
        weight=weight,
        batch_norm='every',
    )


def metasemi_grads(
    model: Any,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    *,
    mixup_lambda: Array | None,
    lr: float | Array,
    consistency_weight: float | Array,
    meta_lr: float | Array = 1.0,
    estimator: str | None = 'jvp',
    epsilon: float = 1e-2,
    dropout_key: Array | None = None,
) -> tuple[Params, Params, dict[str, Array]]:
    """Gradients of the MetaSemi loss for one batch; Algorithm 2 up to the SGD step.

    A pure function: all randomness comes in as arguments.

    Args:
      model: `model.apply(variables, images, train=...)` -> logits, as `create_model` returns it, or a `Network`.
      params, batch_stats: its variables.
      batch: the examples; its `unlabeled_labels` are never read here.
      mixup_lambda: λ [B], or None for no mix-up.
      lr: α of the inner step, the optimizer's learning rate in the recipe.
      consistency_weight: w_t.
      meta_lr: β.
      estimator: a key of `ESTIMATORS`, or None for no meta-gradient and no consistency term.
      epsilon: of `finite_difference`; the others ignore it.
      dropout_key: the model's 'dropout' rng, or None for no dropout.

    Returns:
      grads: of the structure of `params`.
      new_batch_stats: running statistics after the train-mode passes, in the order of the authors' program:
        mixed (or labeled) images first, then unlabeled ones.
      aux: scalars 'label_loss', 'label_grad_norm', 'classification_loss', 'consistency_loss', 'loss'; [B, K]
        'initial_pseudo' ỹ, 'meta_gradient' ∂L_l/∂ỹ (with the factor lr), 'updated_pseudo' ŷ. Without the
        meta-gradient ŷ = ỹ and the gradient is zero. What the caller leaves unused, XLA does not compute.
    """
    network = as_network(model)
    meta = estimator and Meta(meta_lr=meta_lr, estimator=estimator, epsilon=epsilon)
    draw = None if mixup_lambda is None else lambda key, count: mixup_lambda
    method = _metasemi(network, meta, draw, lambda step: jnp.asarray(consistency_weight, float))
    inputs = Inputs(params, batch_stats, {}, {}, jnp.zeros((), jnp.int32), batch, lr)
    keys = Keys(jax.random.key(0), dropout_key)
    grads, outcome = jax.grad(method.loss, has_aux=True)(params, inputs, keys)
    aux = outcome.aux
    if meta is None:
        probs = jax.nn.softmax(network.logits(inputs.variables(), batch.unlabeled_images))
        loss, gradient = jax.value_and_grad(labeled_loss(network, inputs))(params)
        aux |= {'label_loss': loss, 'label_grad_norm': optax.tree.norm(gradient)}
        aux |= {'consistency_loss': jnp.zeros_like(loss), 'initial': probs, 'updated': probs}
        aux['meta_gradient'] = jnp.zeros_like(probs)
    names = ('label_loss', 'label_grad_norm', 'classification_loss', 'consistency_loss', 'loss')
    arrays = {'initial_pseudo': aux['initial'], 'updated_pseudo': aux['updated']}
    return (
        grads,
        outcome.batch_stats,
        {name: aux[name] for name in names} | arrays | {'meta_gradient': aux['meta_gradient']},
    )
