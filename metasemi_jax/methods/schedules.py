"""Weights of the unlabeled loss, as functions of the step."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from metasemi_jax.optimizer import ramp_up

Schedule = Callable[[Array], Array]


def linear_ramp(weight: float, steps: float) -> Schedule:
    """weight·t/steps, up to `weight`; `weight` from the start where `steps` is 0."""
    return lambda step: weight * ramp_up(step, steps)


def gaussian_ramp(weight: float, steps: float) -> Schedule:
    """weight·exp(-5(1 - t/steps)²), up to `weight` (Laine and Aila, 2017)."""
    return lambda step: weight * jnp.exp(-5 * jnp.square(1 - ramp_up(step, steps)))
