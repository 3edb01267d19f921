"""The loop: train, log, evaluate, save, stop and continue."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from metasemi_jax import metrics
from metasemi_jax.checkpoint import Restored, open_checkpoints, restore_latest
from metasemi_jax.config import check_config
from metasemi_jax.data.splits import Split
from metasemi_jax.errors import UserError
from metasemi_jax.experiment import Experiment, build_experiment
from metasemi_jax.interrupt import StopRequest, stop_on_signals
from metasemi_jax.multi_step import call_ends, default_steps_per_call, make_run_steps, stack_host_batches
from metasemi_jax.progress import Pace, ProgressLine, duration
from metasemi_jax.recorder import Recorder
from metasemi_jax.results import summarize, table
from metasemi_jax.run_log import RunLog
from metasemi_jax.train_step import TrainState
from metasemi_jax.workdir import Workdir, write_json


def train_and_evaluate(config: Any, workdir: str) -> dict[str, Any]:
    """Train as `config` says, into `workdir`; continue there if a run was begun, report it if it is done.

    Args:
      config: a ConfigDict with the fields of `configs/default.py`.
      workdir: folder of the run, made if it is missing.

    Returns:
      The contents of `results.json`.

    Raises:
      UserError: settings, data or a workdir that cannot be used (nothing was written), or a loss that is
        no longer a number.
      SystemExit: SIGTERM or Ctrl-C came; the state was saved. The code is 128 + the signal's number.
    """
    started = time.perf_counter()
    check_config(config)
    files = Workdir(workdir)
    files.check(config)
    results = files.read_results()
    if results is not None:
        print(f'{files.path}: this run is finished\n{table(results)}')
        return results
    labeled_ids = files.read_labeled_ids()
    split = None if labeled_ids is None else Split(labeled_ids, files.read_validation_ids())
    experiment = build_experiment(config, split)
    with files.lock():
        files.create(
            config,
            experiment.split.labeled,
            validation_ids=experiment.split.validation,
            class_names=experiment.class_names,
        )
        print(experiment.description)
        figures = _run(config, files, experiment, started)
        results = figures | {
            'seed': config.seed,
            'steps': config.total_steps,
            'split_sha256': experiment.split_sha256,
            'num_held_out': len(experiment.split.validation),
        }
        write_json(files.results, results)
    print(f'{table(results)}\n{duration(results["wall_time_s"])} in all\n{files.describe()}')
    return results


def _run(config: Any, files: Workdir, experiment: Experiment, started: float) -> dict[str, Any]:
    """Restore, train what is left, and sum up."""
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(contextlib.closing(open_checkpoints(files.checkpoints)))
        state, record = _restore(manager, experiment)
        start = int(state.step)
        recorder = Recorder(
            manager,
            stack.enter_context(contextlib.closing(RunLog(files.metrics, start_step=start))),
            stack.enter_context(contextlib.closing(ProgressLine())),
            Pace(start, config.total_steps, images_per_step=2 * config.batch_size),
            total_steps=config.total_steps,
            split_sha256=experiment.split_sha256,
            data_sha256=experiment.data_sha256,
            started=started,
            record=record,
        )
        recorder.say(f'{files.path}: ' + (f'continuing after step {start}' if start else 'starting'))
        evaluation_due = start == config.total_steps or (start and start % config.eval_every == 0)
        if evaluation_due and not recorder.evaluated(start):
            # It was stopped by a signal before it could, or imported.
            recorder.evaluate(start, state, experiment.evaluate)
        # Closed: its worker processes end.
        host_batches = stack.enter_context(contextlib.closing(experiment.pipeline.host_batches(start)))
        stop = stack.enter_context(stop_on_signals())
        stopped_at = _loop(config, experiment, host_batches, state, start, recorder, stop)
    if stopped_at < config.total_steps:
        print(
            f'{stop.name}: saved after step {stopped_at}; the same command continues from there', flush=True
        )
        raise SystemExit(stop.exit_code)
    return summarize(recorder.history) | {'wall_time_s': round(recorder.seconds, 1)}


def _restore(
    manager: ocp.CheckpointManager, experiment: Experiment
) -> tuple[TrainState, dict[str, Any] | None]:
    restored: Restored | None = restore_latest(manager, experiment.state)
    if restored is None:
        return experiment.state, None
    # None: made by torch_import where the images were not at hand, so no split has been used yet.
    if restored.record['split_sha256'] not in (None, experiment.split_sha256):
        raise UserError(
            f'labeled_ids.txt beside {manager.directory} is not the split that this run was trained on; '
            'put the old file back, or use another --workdir'
        )
    if restored.record.get('data_sha256') not in (None, experiment.data_sha256):
        raise UserError(
            f'the images have changed since {manager.directory} was begun: some were added, removed, renamed '
            'or held out; put the old ones back, or use another --workdir'
        )
    return restored.state, restored.record


def _loop(
    config: Any,
    experiment: Experiment,
    host_batches: Iterator[Any],
    state: TrainState,
    start: int,
    recorder: Recorder,
    stop: StopRequest,
) -> int:
    """Train from step `start` to the end, or until `stop`; returns the last step done, which is saved."""
    pipeline = experiment.pipeline
    streaming = not jax.tree.leaves(pipeline.device_data)
    max_steps = min(config.steps_per_call or default_steps_per_call(streaming=streaming), config.total_steps)
    run_steps = make_run_steps(experiment.train_step, pipeline.to_batch, max_steps=max_steps)
    # Folded with the step inside the step, never changed: resuming needs no key in flight.
    key = jax.random.key(config.seed)
    cadences = (config.log_every, config.eval_every, config.checkpoint_every)
    sums, step = None, start
    for end in call_ends(start, config.total_steps, max_steps, cadences):
        previous = sums
        batches = stack_host_batches(host_batches, end - step, max_steps)
        state, call_sums = run_steps(state, pipeline.device_data, batches, end - step, key)
        sums = call_sums if sums is None else metrics.add(sums, call_sums)
        # Waiting for the call *before* this one keeps the device busy and the queue short; without it a
        # signal would have to sit out every call that Python ran ahead.
        jax.block_until_ready(previous)
        if step == start:
            recorder.first_call_done(end, sums)
            # Until here a signal has its usual effect, at once: there is nothing new to save, and compiling
            # would keep it waiting.
            stop.listen()
        step, stopping = end, bool(stop)
        last = step == config.total_steps
        if not (stopping or last or any(step % cadence == 0 for cadence in cadences)):
            continue
        recorder.log(step, sums)
        sums = None
        # A stop does not wait for an evaluation; the run makes up for it when it goes on.
        evaluating = last or (step % config.eval_every == 0 and not stopping)
        lowest = evaluating and recorder.evaluate(step, state, experiment.evaluate)
        if stopping or last or lowest or step % config.checkpoint_every == 0:
            recorder.save(step, state)
        recorder.show(step)
        if stopping:
            break
    return step
