"""The meta-gradient: how the labeled loss changes with the pseudo-labels, one SGD step later.

Notation of the paper (Zhang et al., AISTATS 2021, section 3 and Algorithm 2): parameters θ, pseudo-labels
y [B, K], labeled loss L_l, consistency loss L_u. One inner SGD step on the consistency loss gives

    θ̃(y) = θ - lr ∇_θ L_u(θ, y)

and the meta-gradient is ∂L_l(θ̃(y))/∂y. By the chain rule it contracts one mixed derivative:

    ∂L_l(θ̃(y))/∂y = -lr · d/dθ [∂L_u(θ, y)/∂y] · ∇L_l(θ̃)

The estimators differ only in how they form that product: reverse over reverse (`exact`), forward over
reverse (`jvp`), a central difference along ∇L_l (`finite_difference`, the paper's).

Nothing here knows a model: losses are functions of any pytree of parameters, so the estimators serve any
network of any framework that JAX can differentiate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

Params = Any
OuterLoss = Callable[[Params], Array]
Targets = Any  # y: an array, or a pytree of arrays
InnerLoss = Callable[[Params, Targets], Array]


def inner_sgd_step(
    inner_loss: InnerLoss, params: Params, pseudo_labels: Targets, *, lr: float | Array
) -> Params:
    """One plain SGD step on the consistency loss: θ̃ = θ - lr ∇_θ L_u(θ, y) (paper Eq. 4).

    Args:
      inner_loss: L_u(θ, y) -> scalar. MetaSemi sums it over the batch: with the mean, as the paper writes
        it, the meta-gradient is B times smaller than the authors' program's.
      params: θ, any pytree of floating-point arrays.
      pseudo_labels: y [B, K].
      lr: learning rate of the step.

    Returns:
      θ̃, of the structure and dtypes of `params`; differentiable in `pseudo_labels`.
    """
    grads = jax.grad(inner_loss)(params, pseudo_labels)
    return _move(params, grads, -lr)


def exact(
    outer_loss: OuterLoss,
    inner_loss: InnerLoss,
    params: Params,
    pseudo_labels: Targets,
    *,
    lr: float | Array,
) -> Targets:
    """∂L_l(θ̃(y))/∂y by reverse mode through `inner_sgd_step`, for any pseudo-labels.

    The definition itself and the yardstick of the other two. A third dearer than `jvp`, which gives the
    same numbers where the pseudo-labels are the model's own predictions.

    Args:
      outer_loss: L_l(θ) -> scalar, the labeled loss.
      inner_loss: L_u(θ, y) -> scalar, the consistency loss, summed over the batch.
      params: θ, any pytree of floating-point arrays.
      pseudo_labels: y [B, K], or a pytree of arrays, such as labels and weights of examples.
      lr: learning rate of the inner step.

    Returns:
      The meta-gradient, of the structure, shapes and dtypes of `pseudo_labels`.
    """

    def outer_loss_after_step(y: Array) -> Array:
        return outer_loss(inner_sgd_step(inner_loss, params, y, lr=lr))

    return jax.grad(outer_loss_after_step)(pseudo_labels)


def jvp(
    outer_loss: OuterLoss,
    inner_loss: InnerLoss,
    params: Params,
    pseudo_labels: Targets,
    *,
    lr: float | Array,
    at_inner_step: bool = False,
    outer_grad: Params | None = None,
) -> Targets:
    """-lr · d/dθ[∂L_u/∂y] · ∇L_l by one forward-mode Jacobian-vector product: exact, without any ε.

    Where the pseudo-labels are the model's own predictions, as in MetaSemi, the squared-error L_u has its
    minimum at them: ∇_θ L_u = 0, θ̃ = θ, and ∇L_l(θ) is the right direction. Pseudo-labels from elsewhere
    (a teacher, an earlier step) move θ̃ away from θ: set `at_inner_step`, or the result is not the
    meta-gradient.

    Args:
      outer_loss, inner_loss, params, pseudo_labels, lr: as in `exact`.
      at_inner_step: take ∇L_l at θ̃ instead of θ (one gradient of L_u more).
      outer_grad: ∇L_l at that point, where the caller has it already. XLA removes the duplicate on one
        device; on several it inserts the all-reduces first and would send the gradient twice.

    Returns:
      The meta-gradient, of the structure, shapes and dtypes of `pseudo_labels`.
    """
    if outer_grad is None:
        outer_grad = _outer_gradient(outer_loss, inner_loss, params, pseudo_labels, lr, at_inner_step)
    inner_grad = jax.grad(inner_loss, argnums=1)
    _, tangent = jax.jvp(lambda p: inner_grad(p, pseudo_labels), (params,), (outer_grad,))
    return jax.tree.map(lambda t, y: _scaled(t, -lr, like=y), tangent, pseudo_labels)


def finite_difference(
    outer_loss: OuterLoss,
    inner_loss: InnerLoss,
    params: Params,
    pseudo_labels: Targets,
    *,
    lr: float | Array,
    epsilon: float = 1e-2,
    at_inner_step: bool = False,
    outer_grad: Params | None = None,
) -> Targets:
    """The paper's central difference along ∇L_l (Eq. 9 and Algorithm 2), with ε = epsilon / ‖∇L_l‖₂.

    Its error is O(ε²) plus rounding noise of order (machine epsilon)/ε, which grows as precision shrinks;
    `jvp` costs the same and has neither. The paper divides (f(θ+εg) - f(θ-εg)) by ε, not by 2ε: that is the
    factor 2 of ∂L_u/∂y = 2(y - f) here.

    Args:
      outer_loss, inner_loss, params, pseudo_labels, lr: as in `exact`.
      epsilon: numerator of the step length ε, i.e. the distance ‖εg‖₂ in parameter space.
      at_inner_step, outer_grad: as in `jvp`.

    Returns:
      The meta-gradient, of the structure, shapes and dtypes of `pseudo_labels`; zero where ∇L_l is zero.
    """
    if outer_grad is None:
        outer_grad = _outer_gradient(outer_loss, inner_loss, params, pseudo_labels, lr, at_inner_step)
    norm = optax.tree.norm(outer_grad)
    # A zero gradient would make ε infinite and the result NaN; with ε = epsilon the difference is exactly 0.
    step = epsilon / jnp.where(norm > 0, norm, jnp.ones_like(norm))
    inner_grad = jax.grad(inner_loss, argnums=1)
    ahead = inner_grad(_move(params, outer_grad, step), pseudo_labels)
    behind = inner_grad(_move(params, outer_grad, -step), pseudo_labels)

    def slope(ahead: Array, behind: Array, y: Array) -> Array:
        return _scaled((ahead - behind) / (2 * step).astype(ahead.dtype), -lr, like=y)

    return jax.tree.map(slope, ahead, behind, pseudo_labels)


ESTIMATORS = {'exact': exact, 'jvp': jvp, 'finite_difference': finite_difference}


def update_pseudo_labels(
    pseudo_labels: Array, meta_gradient: Array, *, meta_lr: float | Array = 1.0
) -> Array:
    """ŷ = normalise(max(ỹ - β ∇ỹ, 0)): move the pseudo-labels against the meta-gradient (Algorithm 2).

    Args:
      pseudo_labels: ỹ [B, K], rows of probabilities.
      meta_gradient: ∇ỹ [B, K].
      meta_lr: β.

    Returns:
      ŷ [B, K]: no entry below zero, each row divided by its sum. A row whose sum is 0 stays all zero, as in
      the authors' program: such an image pulls on no class.
    """
    moved = jnp.maximum(pseudo_labels - _scaled(meta_gradient, meta_lr, like=pseudo_labels), 0)
    total = jnp.sum(moved, axis=-1, keepdims=True)
    return moved / jnp.where(total > 0, total, jnp.ones_like(total))


def _outer_gradient(
    outer_loss: OuterLoss,
    inner_loss: InnerLoss,
    params: Params,
    pseudo_labels: Targets,
    lr: float | Array,
    at_inner_step: bool,
) -> Params:
    if at_inner_step:
        params = inner_sgd_step(inner_loss, params, pseudo_labels, lr=lr)
    return jax.grad(outer_loss)(params)


def _move(params: Params, direction: Params, distance: float | Array) -> Params:
    return jax.tree.map(lambda p, d: p + _scaled(d, distance, like=p), params, direction)


def _scaled(array: Array, factor: float | Array, *, like: Array) -> Array:
    # In the dtype of `like`, as JAX holds it: a float32 learning rate must not widen bfloat16 parameters, nor
    # fail strict promotion; and NumPy's float64 is float32 to JAX unless x64 is on.
    dtype = jnp.asarray(like).dtype
    return jnp.asarray(array, dtype) * jnp.asarray(factor, dtype)
