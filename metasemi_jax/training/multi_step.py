"""Steps per call: one on CPU, many on accelerators."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.batch import Batch
from metasemi_jax.distributed.sharding import place, replicated, split_axis
from metasemi_jax.metrics import Metrics
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.compiler_options import step_compiler_options

PyTree = Any
StepFn = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]
ACCELERATOR_STEPS = 100


def steps_per_call(config: Any, *, streaming: bool, platform: str | None = None) -> int:
    """Steps of one call in a run of `config`, at most; `platform` as for `default_steps_per_call`."""
    wanted = config.steps_per_call or default_steps_per_call(streaming=streaming, platform=platform)
    return min(wanted, config.total_steps)


def default_steps_per_call(*, streaming: bool = False, platform: str | None = None) -> int:
    """1 on CPU, where XLA runs convolutions in a loop about 15 times slower (jax issue 12868); else 100.

    Also 1 where the host sends images: those of many steps would fill its memory and the device's.
    `platform` None is this machine's.
    """
    return 1 if streaming or (platform or jax.default_backend()) == 'cpu' else ACCELERATOR_STEPS


def make_run_steps(
    train_step: StepFn, to_batch: Callable[[PyTree, PyTree, Array], Batch], *, max_steps: int, mesh: Mesh
) -> Callable[[TrainState, PyTree, PyTree, Array, Array], tuple[TrainState, Metrics]]:
    """Jitted (state, device_data, host_batches, count, key) -> (state, sums) doing `count` steps.

    `count` is a value, not a shape: one compilation serves every distance to the next log or checkpoint.

    Args:
      train_step: as `make_train_step` returns it.
      to_batch: as in `Pipeline`.
      max_steps: the leading axis of `host_batches`, of which the first `count` entries are used.
      mesh: the devices. They share every batch: axis 1 of `host_batches` is split among them, all else is on
        each.

    Returns:
      The function. `state` is donated; `sums` are the metrics of its steps added up; `key` is the run's one
      base key, folded with the step, so that a resumed run draws the same numbers, and so does one on another
      number of devices. An argument that lies elsewhere than on the mesh is refused.
    """

    def one_step(state: TrainState, device_data: PyTree, host_batch: PyTree, key: Array):
        data_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        return train_step(state, to_batch(device_data, host_batch, data_key), step_key)

    def run_one(state, device_data, host_batches, count, key):
        del count
        return one_step(state, device_data, _take(host_batches, 0), key)

    def run_many(state, device_data, host_batches, count, key):
        def body(i, carry):
            state, sums = carry
            state, step_metrics = one_step(state, device_data, _take(host_batches, i), key)
            return state, metrics.add(sums, step_metrics)

        _, shapes = jax.eval_shape(one_step, state, device_data, _take(host_batches, 0), key)
        no_sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, no_sums))

    everywhere = replicated(mesh)
    return jax.jit(
        run_one if max_steps == 1 else run_many,
        in_shardings=(everywhere, everywhere, split_axis(mesh, 1), everywhere, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
        compiler_options=step_compiler_options(mesh.devices.flat[0].platform),
    )


def call_ends(start: int, total: int, max_steps: int, cadences: Sequence[int]) -> Iterator[int]:
    """The step after each call, from `start` to `total`: at most `max_steps` on, and never past a cadence.

    The first call does one step, which tells the pace at once. With 3 steps a call and a log every 4: 0 -> 1,
    4, 7, 8, ...
    """
    step, most = start, 1
    while step < total:
        borders = [(step // cadence + 1) * cadence for cadence in cadences]
        step = min(step + most, total, *borders)
        most = max_steps
        yield step


def place_host_batches(
    batches: Iterator[PyTree], count: int, max_steps: int, mesh: Mesh
) -> tuple[PyTree, Array]:
    """The next `count` host batches and the number, on the devices, as `make_run_steps` takes them.

    The batches get a leading axis of `max_steps`; what is left of it is filled up, and never used.
    """
    taken = [next(batches) for _ in range(count)]
    taken += [taken[-1]] * (max_steps - count)
    # One batch alone is not copied: it may be images.
    stacked = jax.tree.map(lambda *x: np.stack(x) if len(x) > 1 else np.asarray(x[0])[None], *taken)
    return place(stacked, split_axis(mesh, 1)), place(np.int32(count), replicated(mesh))


def _take(host_batches: PyTree, i: int | Array) -> PyTree:
    return jax.tree.map(lambda x: x[i], host_batches)
