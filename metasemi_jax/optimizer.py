"""Learning rates and ramp-ups as functions of the step, and the optimizers, without their learning rate."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

Schedule = Callable[[Array], Array]  # step, an integer scalar -> learning rate, scalar, JAX's default float
OPTIMIZERS = ('adam', 'adamw', 'sgd')
# 'kernels': of convolutions and linear layers alone; neither biases nor BatchNorm's scales.
WEIGHT_DECAY_ON = ('all', 'kernels')


def warmup_piecewise_schedule(
    lr: float, *, warmup_steps: int, milestones: Sequence[int], decay: float = 0.1
) -> Schedule:
    """Linear warm-up from 0, then constant, times `decay` after each milestone.

    `optax.piecewise_constant_schedule` changes at `count >= boundary`; the authors' program changes at
    `step > milestone`, one step later, hence this one.

    Args:
      warmup_steps: lr·t/warmup_steps for t < warmup_steps; 0 for none.
    """

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step)
        falls = sum((step > milestone).astype(jnp.int32) for milestone in milestones)
        factors = jnp.asarray([decay**n for n in range(len(milestones) + 1)], float)
        return lr * ramp_up(step, warmup_steps) * factors[falls]

    return schedule


def warmup_cosine_schedule(lr: float, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up from 0, then half a cosine from `lr` down to 0 at `total_steps`.

    Args:
      lr: learning rate at the end of the warm-up.
      warmup_steps: lr·t/warmup_steps for t < warmup_steps; 0 for none.
      total_steps: step at which the rate is 0; more than `warmup_steps`.
    """

    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, warmup_steps, total_steps)
    # It mixes the step with floats, which strict promotion refuses.
    return lambda step: schedule(jnp.asarray(step).astype(float))


def cosine_7_16_schedule(lr: float, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up from 0, then lr·cos(7πt/(16T)), from `lr` down to 0.195·lr at `total_steps`.

    The rate of FixMatch (Sohn et al., 2020) and of the methods after it, which have no warm-up. With one, t
    and T count the steps after it, as in Microsoft's USB.

    Args:
      lr, warmup_steps: as in `warmup_cosine_schedule`.
      total_steps: step at which the fall ends; more than `warmup_steps`. The rate stays there.
    """

    def schedule(step: Array) -> Array:
        done = (jnp.asarray(step).astype(float) - warmup_steps) / (total_steps - warmup_steps)
        return lr * ramp_up(step, warmup_steps) * jnp.cos(7 / 16 * math.pi * jnp.clip(done, 0.0, 1.0))

    return schedule


def ramp_up(step: Array, steps: int) -> Array:
    """t/steps, up to 1: the weight w_t of the consistency loss, and the warm-up; 1 where `steps` is 0."""
    return jnp.minimum(jnp.asarray(step).astype(float) / steps, 1.0) if steps else jnp.ones((), float)


def make_optimizer(
    name: str,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_on: str = 'all',
) -> optax.GradientTransformation:
    """An optimizer before the learning rate: the caller multiplies its update by -lr.

    The rate stays out because the inner step of the meta-gradient needs the same number: there is one step
    counter, and the two cannot disagree. With g the gradient, θ the parameters, μ `momentum`, w the decay:

        sgd             g ← g + wθ; v ← μv + g; update v, with Nesterov's momentum g + μv
        adam            g ← g + wθ; m ← μm + (1-μ)g; s ← .999s + .001g²;
                        update m̂ / (√ŝ + 1e-8), with m̂ = m / (1-μᵗ), ŝ = s / (1-.999ᵗ)
        adamw           as adam without w in g; update m̂ / (√ŝ + 1e-8) + wθ

    These are the formulas of PyTorch's SGD, Adam and AdamW. Nesterov's is also that of TensorFlow's
    MomentumOptimizer, and google-research/fixmatch decays kernels by lr·w beside Adam, as adamw does.

    Args:
      name: one of `OPTIMIZERS`.
      momentum: μ; β₁ of Adam.
      nesterov: whether sgd uses Nesterov's momentum; False for the others.
      weight_decay: w.
      weight_decay_on: one of `WEIGHT_DECAY_ON`; 'kernels' are the leaves named 'kernel'.

    Raises:
      ValueError: an unknown choice, or `nesterov` with another optimizer than sgd.
    """
    if name not in OPTIMIZERS or weight_decay_on not in WEIGHT_DECAY_ON:
        raise ValueError(f"unknown optimizer '{name}', or decay on '{weight_decay_on}'")
    decay = optax.add_decayed_weights(weight_decay, mask=_is_kernel if weight_decay_on == 'kernels' else None)
    if name == 'sgd':
        return optax.chain(decay, optax.trace(decay=momentum, nesterov=nesterov))
    if nesterov:
        raise ValueError(f"optimizer '{name}' has no Nesterov momentum")
    adam = _adam(momentum)
    return optax.chain(decay, adam) if name == 'adam' else optax.chain(adam, decay)


def by_layer(
    tx: optax.GradientTransformation,
    *,
    head: str,
    frozen: Collection[str] = (),
    body_lr_scale: float = 1.0,
) -> optax.GradientTransformation:
    """`tx` with a lower rate for the body, and none for frozen layers: no momentum, no weight decay.

    Args:
      tx: the optimizer before the learning rate.
      head: name of the layer that has the full rate.
      frozen: names of the layers that stay as they are.
      body_lr_scale: factor on the rate of all layers between.

    Returns:
      `tx` itself where nothing is frozen and the factor is 1.
    """
    if not frozen and body_lr_scale == 1:
        return tx

    def part(path: Any, _: Any) -> str:
        name = path[0].key
        return 'head' if name == head else 'frozen' if name in frozen else 'body'

    def parts(params: Any) -> Any:
        return jax.tree.map_with_path(part, params)

    body = optax.chain(tx, optax.scale(body_lr_scale))
    return optax.partition({'head': tx, 'body': body, 'frozen': optax.set_to_zero()}, parts)


def _adam(b1: float) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=b1, b2=0.999, eps=1e-8)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Optax raises a float to the power of the integer count, which strict promotion refuses.
        with jax.numpy_dtype_promotion('standard'):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def _is_kernel(params: Any) -> Any:
    """True for each leaf named 'kernel', False for the others."""
    return jax.tree.map_with_path(lambda path, _: path[-1] == jax.tree_util.DictKey('kernel'), params)
