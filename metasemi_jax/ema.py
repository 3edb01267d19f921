"""The exponential moving average (EMA) of the weights, in the two conventions of published code."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Params = Any
EMA_CONVENTIONS = ('constant', 'mean_teacher')


def update_ema(
    ema: Params, variables: Params, step: Array, decay: float, *, convention: str = 'mean_teacher'
) -> Params:
    """keep·ema + (1 - keep)·variables, after one optimizer step.

    'mean_teacher' (Tarvainen and Valpola, 2017): keep = min(decay, 1 - 1/(step+1)), a plain mean of the first
    weights, so that the random initialisation is forgotten at once. BatchNorm's running statistics are
    averaged like the weights.

    'constant' (google-research/fixmatch, Microsoft's USB): keep = decay from the first step on, of the
    parameters alone; the running statistics are those of `variables`.

    Args:
      ema: {'params': ..., 'batch_stats': ...}, before the first step a copy of the initial variables; {} to
        keep no average.
      variables: the variables after the step, of the structure of `ema`.
      step: integer scalar, steps done before this one.
      decay: share of the old average that is kept, in the long run.
      convention: one of `EMA_CONVENTIONS`.

    Returns:
      The new average, of the structure and dtypes of `ema`.

    Raises:
      ValueError: an unknown convention.
    """
    if convention not in EMA_CONVENTIONS:
        raise ValueError(f"unknown EMA convention '{convention}'")
    if not ema:
        return ema
    keep = jnp.asarray(decay, float)
    if convention == 'mean_teacher':
        keep = jnp.minimum(decay, 1 - 1 / (step.astype(float) + 1))

    def average(old: Array, new: Array) -> Array:
        return keep.astype(old.dtype) * old + (1 - keep).astype(old.dtype) * new

    if convention == 'constant':
        return variables | {'params': jax.tree.map(average, ema['params'], variables['params'])}
    return jax.tree.map(average, ema, variables)
