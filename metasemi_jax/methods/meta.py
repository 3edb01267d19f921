"""The meta-gradient as a transformation of any method's targets.

Let L_u(θ, q, m) = Σ m_i·loss(f(x_i; θ), q_i), of labels q and weights m, and θ̃ = θ - α∇L_u.
The targets move against dL_l(θ̃)/d(q, m). For labels that is MetaSemi; for weights it is the online
approximation of Ren et al., "Learning to Reweight Examples" (ICML 2018), and of the Meta-Semi of Wang et al.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metasemi_jax.meta_gradient import ESTIMATORS, update_pseudo_labels
from metasemi_jax.methods.losses import cross_entropy
from metasemi_jax.methods.method import Inputs, Targets
from metasemi_jax.methods.network import Network

ExampleLoss = Callable[..., Array]  # (*, logits [n, K], targets [n, K]) -> [n]


class Meta(NamedTuple):
    """Options of the meta-gradient: what it moves, and how it is estimated."""

    labels: bool = True
    weights: bool = False
    meta_lr: float = 1.0  # β
    estimator: str = 'jvp'  # of `meta_gradient.ESTIMATORS`
    epsilon: float = 1e-2  # of finite_difference
    # Take ∇L_l at θ̃: exact for any targets, for one gradient more. At θ it is exact for the network's own
    # predictions under squared error alone (MetaSemi), and 2-17% off for others.
    at_inner_step: bool = False
    inner_lr: float | None = None  # α of the inner step; None: the optimizer's learning rate


def labeled_loss(network: Network, inputs: Inputs) -> Callable[..., Array]:
    """θ -> L_l(θ), the mean cross-entropy of the labeled batch in evaluation mode (paper Eq. 1)."""

    def loss(params) -> Array:
        logits = network.logits(inputs.variables(params), inputs.batch.labeled_images)
        return jnp.mean(cross_entropy(logits=logits, labels=inputs.batch.labels))

    return loss


def refine(
    targets: Targets,
    *,
    inputs: Inputs,
    meta: Meta,
    network: Network,
    loss: ExampleLoss,
    labels: bool,
    weights: bool,
) -> Targets:
    """Move labels, weights or both against the meta-gradient of the labeled loss.

    All passes are in evaluation mode: no statistic moves, nothing is dropped.

    Args:
      targets: soft labels, and weights or None.
      inputs: state before the step: θ, the batch and α.
      meta: estimator and step sizes.
      loss: loss of one unlabeled image, from logits and targets.
      labels, weights: which of the two to move.

    Returns:
      The targets, labels normalised and weights not negative, with the scalars 'label_loss' and
      'label_grad_norm' at θ (not where ∇L_l is taken at θ̃), and [n, K] 'moved_from', 'updated' and
      'meta_gradient' where labels moved.
    """
    has_target = jnp.any(targets.labels > 0, axis=-1)
    old = {'labels': targets.labels} if labels else {}
    if weights:
        ones = jnp.ones(targets.labels.shape[:1], targets.labels.dtype)
        old['weights'] = ones if targets.weights is None else targets.weights
    gradient, aux = _meta_gradient(targets, old, inputs, meta, network, loss)
    if labels:
        moved = update_pseudo_labels(old['labels'], gradient['labels'], meta_lr=meta.meta_lr)
        aux |= {'moved_from': old['labels'], 'updated': moved, 'meta_gradient': gradient['labels']}
        targets = targets._replace(labels=moved)
    if weights:
        step = jnp.asarray(meta.meta_lr, old['weights'].dtype) * gradient['weights']
        # A row of zeros is no target: a weight would pull the prediction towards nothing.
        step = jnp.where(has_target, step, jnp.zeros_like(step))
        targets = targets._replace(weights=jnp.maximum(old['weights'] - step, 0))
    return targets.add_aux(**aux)


def _meta_gradient(
    targets: Targets, old: dict[str, Array], inputs: Inputs, meta: Meta, network: Network, loss: ExampleLoss
) -> tuple[dict[str, Array], dict[str, Array]]:
    """dL_l(θ̃)/d`old`, the labels, weights or both that move; and the scalars of `refine`."""
    images = targets.student_images(inputs.batch)

    def inner_loss(params, moving: dict[str, Array]) -> Array:
        logits = network.logits(inputs.variables(params), images)
        losses = loss(logits=logits, targets=moving.get('labels', targets.labels))
        weights = moving.get('weights', targets.weights)
        # Summed, not averaged as the paper writes it: so the authors' program computes it.
        return jnp.sum(losses if weights is None else weights * losses)

    outer_loss = labeled_loss(network, inputs)
    options, aux = {}, {}
    lr = inputs.lr if meta.inner_lr is None else meta.inner_lr
    if meta.estimator != 'exact':
        options['at_inner_step'] = meta.at_inner_step
    if meta.estimator == 'finite_difference':
        options['epsilon'] = meta.epsilon
    if not meta.at_inner_step:
        # The estimators ask for these forward passes again; XLA computes them once.
        aux['label_loss'], gradient = jax.value_and_grad(outer_loss)(inputs.params)
        aux['label_grad_norm'] = optax.tree.norm(gradient)
        if meta.estimator != 'exact':
            options['outer_grad'] = gradient
    estimate = ESTIMATORS[meta.estimator]
    return estimate(outer_loss, inner_loss, inputs.params, old, lr=lr, **options), aux
