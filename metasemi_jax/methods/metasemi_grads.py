"""The gradients of MetaSemi for one batch, with all randomness as arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metasemi_jax.batch import Batch
from metasemi_jax.methods.meta import Meta, labeled_loss
from metasemi_jax.methods.metasemi import metasemi_from
from metasemi_jax.methods.method import Inputs, Keys
from metasemi_jax.methods.network import as_network

Params = Any


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
      model: `model.apply(variables, images, train=...)` -> logits, as of `create_model`; or a `Network`.
      params, batch_stats: the variables of `model`.
      batch: the examples; its `unlabeled_labels` are never read here.
      mixup_lambda: λ [B], or None for no mix-up.
      lr: α of the inner step, the optimizer's learning rate in the recipe.
      consistency_weight: w_t.
      meta_lr: β.
      estimator: a key of `ESTIMATORS`, or None for no meta-gradient and no consistency term.
      epsilon: ‖εg‖₂ of `finite_difference`; the other estimators ignore it.
      dropout_key: the model's 'dropout' rng, or None for no dropout.

    Returns:
      grads: the gradient of the loss, of the structure of `params`.
      new_batch_stats: running statistics after the train-mode passes, in the order of the authors' program:
        mixed (or labeled) images first, then unlabeled ones.
      aux: scalars 'label_loss', 'label_grad_norm', 'classification_loss', 'consistency_loss', 'loss'; [B, K]
        'initial_pseudo' ỹ, 'meta_gradient' ∂L_l/∂ỹ (with the factor lr), 'updated_pseudo' ŷ. Without the
        meta-gradient ŷ = ỹ and the gradient is zero. What the caller leaves unused, XLA does not compute.
    """
    network = as_network(model)
    meta = estimator and Meta(meta_lr=meta_lr, estimator=estimator, epsilon=epsilon)
    draw = None if mixup_lambda is None else lambda key, count: mixup_lambda
    method = metasemi_from(network, meta, draw, lambda step: jnp.asarray(consistency_weight, float))
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
