"""Measures the seconds of a step, an evaluation and a checkpoint on this machine."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from metasemi_jax.distributed.multi_host import failing_together, is_primary, of_primary
from metasemi_jax.distributed.sharding import place, replicated
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.experiment import Experiment
from metasemi_jax.training.multi_step import place_host_batches
from metasemi_jax.training.prepared import Prepared, prepare
from metasemi_jax.training.time_budget import Costs

SHARE = 0.05  # of the budget, for the timed steps and for an evaluation
MOST_SECONDS = 30.0


def measure(experiment: Experiment, mesh: Mesh, folder: Path | None, seconds: float) -> Costs:
    """Time the compiled step, an evaluation and a checkpoint; nothing that is trained here is kept.

    Args:
      experiment: data, step and state; the state is copied.
      folder: folder of the run, where a checkpoint is written for a moment; None: the run writes none.

    Returns:
      The costs, the same in every process.
    """
    # A copy: the step donates its arrays.
    state = place(jax.tree.map(np.array, experiment.state), replicated(mesh))
    prepared = prepare(experiment, mesh)
    with contextlib.closing(experiment.pipeline.host_batches(0)) as host_batches:
        batches, count = place_host_batches(host_batches, 1, prepared.max_steps, mesh)
        with _without_compilation_cache():
            started = time.perf_counter()
            lowered = prepared.run.lower(state, prepared.device_data, batches, count, prepared.key)
            prepared = prepared._replace(run=lowered.compile())
            compilation = time.perf_counter() - started
        timed = min(SHARE * seconds, MOST_SECONDS)
        state, step = _time_steps(prepared, state, host_batches, mesh, timed)
    evaluation = _time_evaluation(experiment, state, SHARE * seconds)
    checkpoint = 0.0 if folder is None else _time_checkpoint(folder, state)
    costs = Costs(step, evaluation, checkpoint, compilation)
    return Costs(*of_primary(np.asarray(costs)).tolist())


def _time_steps(
    prepared: Prepared, state: Any, host_batches: Iterator[Any], mesh: Mesh, seconds: float
) -> tuple[Any, float]:
    """Seconds of one step, and the state after those that were timed."""

    def time_calls(state: Any, calls: int, count: int) -> tuple[Any, float]:
        started = time.perf_counter()
        for _ in range(calls):
            batches, number = place_host_batches(host_batches, count, prepared.max_steps, mesh)
            state, sums = prepared.run(state, prepared.device_data, batches, number, prepared.key)
            # Wait, as the loop does for the call before.
            jax.block_until_ready(sums)
        return state, (time.perf_counter() - started) / (calls * count)

    # The first call is slower, and the next calls find batches made in advance.
    state, _ = time_calls(state, 1, 1)
    state, rough = time_calls(state, 2, min(prepared.max_steps, 5))
    calls = max(2, round(seconds / (rough * prepared.max_steps)))
    return time_calls(state, int(of_primary(np.asarray(calls))), prepared.max_steps)


def _time_evaluation(experiment: Experiment, state: Any, most: float) -> float:
    """Seconds of one evaluation in the loop.

    The second one is timed, since the first compiles; a first one of more than `most` seconds counts itself.
    """
    weights = [state.variables, *[state.ema] * bool(state.ema)]

    def evaluate() -> float:
        started = time.perf_counter()
        for variables in weights:
            experiment.evaluate(variables)
        experiment.probe(weights[0])
        return time.perf_counter() - started

    first = float(of_primary(np.asarray(evaluate())))
    return first if first > most else evaluate()


def _time_checkpoint(folder: Path, state: Any) -> float:
    trial = folder / '.trial'
    with failing_together():
        if is_primary():
            # A killed trial leaves its folder behind.
            shutil.rmtree(trial, ignore_errors=True)
    try:
        # The first save takes longer than the others.
        with closing_checkpoints(open_checkpoints(trial)) as manager:
            save_checkpoint(manager, state, {}, step=0, error=None)
            manager.wait_until_finished()
            started = time.perf_counter()
            save_checkpoint(manager, state, {}, step=1, error=None)
            manager.wait_until_finished()
            return time.perf_counter() - started
    finally:
        if is_primary():
            shutil.rmtree(trial, ignore_errors=True)


@contextlib.contextmanager
def _without_compilation_cache() -> Iterator[None]:
    """Compile for real: the step of the run has another schedule, and is not in the cache either."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update('jax_enable_compilation_cache', False)
    # JAX looks at the switch once.
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()
