"""One training step of any method as a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array

from metasemi_jax.batch import Batch
from metasemi_jax.ema import update_ema
from metasemi_jax.methods.metasemi_grads import metasemi_grads
from metasemi_jax.methods.method import Inputs, Keys, Method
from metasemi_jax.methods.target_metrics import step_metrics
from metasemi_jax.metrics import Metrics, mean_of

__all__ = ['Batch', 'TrainState', 'make_train_step', 'metasemi_grads', 'update_ema']

Params = Any


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; arrays only. `ema` is {} unless EMA weights are kept."""

    step: Array  # int32 scalar, steps done so far
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    ema: Params  # {'params': ..., 'batch_stats': ...}
    method: Any = flax.struct.field(default_factory=dict)  # the method's own, see `Method.init`

    @property
    def variables(self) -> dict[str, Params]:
        """What the network is applied with."""
        return {'params': self.params, 'batch_stats': self.batch_stats}

    @classmethod
    def create(
        cls,
        variables: dict,
        tx: optax.GradientTransformation,
        *,
        with_ema: bool = False,
        method_state: Any = None,
    ) -> 'TrainState':
        """The state before the first step, from `model.init`'s variables."""
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        ema = {'params': params, 'batch_stats': batch_stats} if with_ema else {}
        return cls(
            jnp.zeros((), jnp.int32),
            params,
            batch_stats,
            tx.init(params),
            jax.tree.map(jnp.copy, ema),
            {} if method_state is None else method_state,
        )


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    *,
    lr_schedule: Callable[[Array], Array],
    ema_decay: float = 0.0,
    ema_convention: str = 'mean_teacher',
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The step of a whole run: (state, batch, key) -> (state, metrics), to be jitted by the caller.

    Args:
      method: as `create_method` returns it.
      tx: the optimizer *without* its learning rate, as `optimizer.make_optimizer` returns it.
      lr_schedule: step -> learning rate, of the step and of the inner step of a meta-gradient alike.
      ema_decay: decay of the averaged weights in `state.ema`; 0 for none.
      ema_convention: `convention` of `update_ema`.

    Returns:
      The step function. Its metrics are (sum, count) pairs; the key is used up by the one step.

    Raises:
      ValueError: a method that needs a teacher, and no `ema_decay`.
    """
    if method.teacher and not ema_decay:
        raise ValueError('this method learns from the EMA weights: it needs ema_decay > 0')

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        keys = Keys(*jax.random.split(key))
        del key
        if bool(state.ema) != (ema_decay > 0):
            raise ValueError('ema_decay > 0 needs a state made with `with_ema=True`, and only then')
        lr = jnp.asarray(lr_schedule(state.step), float)
        inputs = Inputs(state.params, state.batch_stats, state.ema, state.method, state.step, batch, lr)
        grads, outcome = jax.grad(method.loss, has_aux=True)(state.params, inputs, keys)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, state.params, updates)
        variables = {'params': params, 'batch_stats': outcome.batch_stats}
        ema = update_ema(state.ema, variables, state.step, ema_decay, convention=ema_convention)
        state = TrainState(state.step + 1, params, outcome.batch_stats, opt_state, ema, outcome.state)
        return state, step_metrics(outcome.aux, batch) | {'lr': mean_of(lr)}

    return train_step
