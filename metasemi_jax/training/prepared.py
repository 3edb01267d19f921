"""The jitted step of a run, with the data that stay on the devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from metasemi_jax.distributed.sharding import place, replicated
from metasemi_jax.training.experiment import Experiment
from metasemi_jax.training.multi_step import make_run_steps, steps_per_call


class Prepared(NamedTuple):
    """What a loop calls: run(state, device_data, host batches, count, key) -> (state, sums)."""

    run: Callable[..., Any]  # jitted, not compiled yet
    device_data: Any
    key: jax.Array  # folded with the step inside the step, never changed: resuming needs no key in flight
    max_steps: int  # of one call


def prepare(experiment: Experiment, mesh: Mesh, *, lr_factor: float = 1.0) -> Prepared:
    """Place the data of `experiment` on the devices; make the function that does up to `max_steps` steps."""
    config, pipeline = experiment.config, experiment.pipeline
    streaming = not jax.tree.leaves(pipeline.device_data)
    max_steps = steps_per_call(config, streaming=streaming)
    run = make_run_steps(
        experiment.make_train_step(lr_factor), pipeline.to_batch, max_steps=max_steps, mesh=mesh
    )
    everywhere = replicated(mesh)
    key = jax.jit(jax.random.key, static_argnums=0, out_shardings=everywhere)(config.seed)
    return Prepared(run, place(pipeline.device_data, everywhere), key, max_steps)
