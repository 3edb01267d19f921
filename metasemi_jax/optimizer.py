"""The recipe's learning rate, consistency ramp-up and SGD, as functions of the step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Schedule = Callable[[Array], Array]


def warmup_piecewise_schedule(
    lr: float, *, warmup_steps: int, milestones: Sequence[int], decay: float = 0.1
) -> Schedule:
    """Linear warm-up from 0, then constant, times `decay` after each milestone.

    `optax.piecewise_constant_schedule` changes at `count >= boundary`; the authors' program changes at
    `step > milestone`, one step later, hence this one.

    Args:
      lr: learning rate between the warm-up and the first milestone.
      warmup_steps: lr·t/warmup_steps for t < warmup_steps; 0 for none.
      milestones: steps after which the rate falls.
      decay: factor at each milestone.

    Returns:
      step (integer scalar) -> learning rate (scalar, JAX's default float dtype).
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
      total_steps: where it is 0; more than `warmup_steps`.

    Returns:
      step (integer scalar) -> learning rate (scalar, JAX's default float dtype).
    """

    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, warmup_steps, total_steps)
    # It mixes the step with floats, which strict promotion refuses.
    return lambda step: schedule(jnp.asarray(step).astype(float))


def ramp_up(step: Array, steps: int) -> Array:
    """t/steps, up to 1: the weight w_t of the consistency loss, and the warm-up; 1 where `steps` is 0."""
    return jnp.minimum(jnp.asarray(step).astype(float) / steps, 1.0) if steps else jnp.ones((), float)


def sgd_momentum(*, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """PyTorch's SGD before the learning rate: weight decay on *every* parameter, then momentum.

    The caller multiplies the update by -lr. The rate stays out of it because the inner step needs the same
    number: there is one step counter, and the two cannot disagree.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(decay=momentum))
