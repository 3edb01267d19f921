"""Data in memory -> a trained network: the loop of `training.loop` without its folder."""

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.config.fields import LOCATIONS
from metasemi_jax.config.form import flatten
from metasemi_jax.data.dataset import Dataset, InputSpec
from metasemi_jax.data.splits import Split
from metasemi_jax.distributed.sharding import check_batch_size, make_mesh, place, replicated
from metasemi_jax.errors import DivergedError
from metasemi_jax.fitting.listener import Listener
from metasemi_jax.metrics import all_finite
from metasemi_jax.progress import parse_duration
from metasemi_jax.results import reported_weights
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.experiment import Experiment, build_experiment, rescheduled
from metasemi_jax.training.multi_step import call_ends, place_host_batches
from metasemi_jax.training.prepared import prepare
from metasemi_jax.training.time_budget import plan, recipe_of, with_plan
from metasemi_jax.training.trial import measure
from metasemi_jax.training.watch import Look, Warned, new_warnings

LEAST_ROWS = 64
ADVICE = 'Lower optimizer.lr'


class Fitted(NamedTuple):
    """The result of a fit."""

    config: Any  # the settings, with those that the recipe chose
    variables: dict  # {'params': ..., 'batch_stats': ...}, NumPy arrays
    input_spec: InputSpec
    warnings: list[Warned]


def fit(config: Any, dataset: Dataset, listener: Listener) -> Fitted:
    """Train a network on `dataset`; labels of -1 make the unlabeled pool.

    Where all are labeled, they are the unlabeled pool too.

    Args:
      config: as `make_config` returns it.
      dataset: in memory, without test and validation images.
      listener: receives lines and losses.

    Raises:
      UserError: settings that do not fit the data.
      DivergedError: the loss is no longer a number.
    """
    started = time.perf_counter()
    mesh = make_mesh()
    labeled = dataset.train_labels >= 0
    config.data.include_labeled = bool(labeled.all())
    split = Split(dataset.train_ids[labeled].tolist(), [])
    experiment = _with_rounded_pools(build_experiment(config, mesh, split, dataset=dataset))
    config = experiment.config
    check_batch_size(config.batch_size, mesh.size)
    listener.say(experiment.description)
    listener.say(experiment.chosen.rpartition(';')[0])
    if config.time_budget:
        costs = measure(experiment, mesh, None, parse_duration(config.time_budget))
        left = parse_duration(config.time_budget) - (time.perf_counter() - started)
        config = with_plan(config, plan(recipe_of(config), costs, left))
        experiment = rescheduled(experiment, config)
        listener.say(f'time_budget={config.time_budget}: {config.total_steps:,} steps')
    state, warnings = _train(experiment, mesh, listener)
    weights = reported_weights({}, ema_decay=config.ema_decay, total_steps=config.total_steps)
    variables = state.ema if weights == 'ema' else state.variables
    variables = jax.tree.map(np.array, jax.device_get(variables))
    return Fitted(config, variables, experiment.input_spec, warnings)


def _train(experiment: Experiment, mesh: Mesh, listener: Listener) -> tuple[TrainState, list[Warned]]:
    """The state after the last step, and the warnings."""
    config, prepared = experiment.config, prepare(experiment, mesh)
    run = _shared(experiment, mesh, prepared.run)
    state, sums, step = place(experiment.state, replicated(mesh)), None, 0
    looks, warnings, total = [], [], config.total_steps
    with contextlib.closing(experiment.pipeline.host_batches(0)) as host_batches:
        cadences = (config.log_every, config.eval_every)
        for end in call_ends(0, total, prepared.max_steps, cadences):
            previous = sums
            with jax.transfer_guard('disallow'):
                batches, count = place_host_batches(host_batches, end - step, prepared.max_steps, mesh)
                state, call_sums = run(state, prepared.device_data, batches, count, prepared.key)
                sums = call_sums if sums is None else metrics.add(sums, call_sums)
                # Wait for the call before, as `training.loop` does: the device stays busy, the queue short.
                jax.block_until_ready(previous)
            step = end
            if step < total and all(step % cadence for cadence in cadences):
                listener.tick(step, total)
                continue
            loss, sums = metrics.compute(sums)['loss'], None
            if not math.isfinite(loss):
                raise DivergedError(f'the loss is {loss} at step {step}', ADVICE, rollbacks=0)
            listener.loss(step, total, loss)
            if step == total or step % config.eval_every == 0:
                seen = experiment.probe(state.variables)
                looks.append(Look(step, loss, **seen))
                num_classes = len(experiment.class_names)
                warnings += new_warnings(looks, known=warnings, total_steps=total, num_classes=num_classes)
    if not all_finite(state):
        raise DivergedError('a parameter or statistic is not finite', ADVICE, rollbacks=0)
    return state, warnings


def _shared(experiment: Experiment, mesh: Mesh, run: Callable[..., Any]) -> Callable[..., Any]:
    """The jitted step of an earlier fit where it is the same function as `run`: nothing is compiled again.

    All that the step closes over is made from the key's parts; data with their mean, seed and state are its
    arguments.
    """
    fields = flatten(experiment.config)
    if ':' in fields['method.name']:
        return run  # a file, which may change
    own = {name: value for name, value in fields.items() if name not in ('seed', *LOCATIONS)}
    # The batches are made in the shape of an example.
    shape = experiment.input_spec.image_shape
    key = (json.dumps(own, sort_keys=True), experiment.model, shape, mesh)
    shared = _steps(key)
    shared.setdefault('run', run)
    return shared['run']


@functools.lru_cache(maxsize=16)
def _steps(key: Any) -> dict[str, Any]:
    del key
    return {}


def _with_rounded_pools(experiment: Experiment) -> Experiment:
    """`experiment` with a few more rows in its arrays than there are examples; they are never drawn.

    The step is compiled for their number, and the folds of a cross-validation differ in it by one.
    """

    def rounded(array: np.ndarray) -> np.ndarray:
        unit = max(LEAST_ROWS, 1 << max(0, len(array).bit_length() - 4))
        more = -len(array) % unit
        return np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1)) if more else array

    pipeline = experiment.pipeline
    *arrays, statistics = pipeline.device_data
    return experiment._replace(pipeline=pipeline._replace(device_data=(*map(rounded, arrays), statistics)))
