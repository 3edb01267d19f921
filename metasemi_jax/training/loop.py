"""The loop: train, log, evaluate, save, stop and continue."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.config import agreed_settings, check_config
from metasemi_jax.data.splits import Split
from metasemi_jax.distributed.multi_host import check_same, failing_together, is_first, naming_lost_peers
from metasemi_jax.distributed.sharding import check_batch_size, make_mesh, place, replicated
from metasemi_jax.errors import DivergedError
from metasemi_jax.progress import Pace, ProgressLine, duration
from metasemi_jax.results import reported_weights, summarize, table
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import closing_checkpoints
from metasemi_jax.training.experiment import Experiment, build_experiment
from metasemi_jax.training.multi_step import (
    call_ends,
    default_steps_per_call,
    make_run_steps,
    place_host_batches,
)
from metasemi_jax.training.preemption import StopRequest, stop_on_signals
from metasemi_jax.training.recorder import NEW_RUN, Recorder
from metasemi_jax.training.resume import open_and_restore
from metasemi_jax.training.run_log import RunLog
from metasemi_jax.workdir import Workdir, write_json

MAX_ROLLBACKS = 3


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
    with naming_lost_peers():
        return _train_and_evaluate(config, Workdir(workdir), started)


def _train_and_evaluate(config: Any, files: Workdir, started: float) -> dict[str, Any]:
    with failing_together():
        config = files.with_choices_of_run(config)
        check_config(config)
    check_same('settings', agreed_settings(config))
    with failing_together():
        files.check(config)
        results = files.read_results()
        # Without input.json a finished run goes through the motions, to get one.
        finished = results is not None and files.input_form.exists()
    check_same('--workdir', str(finished))
    with failing_together():
        if not finished:
            mesh = make_mesh()
            labeled_ids = files.read_labeled_ids()
            split = None if labeled_ids is None else Split(labeled_ids, files.read_validation_ids())
            experiment = build_experiment(config, mesh, split)
            config = experiment.config
            check_batch_size(config.batch_size, mesh.size)
    if finished:
        print(f'{files.path}: this run is finished\n{table(results)}')
        return results
    check_same('settings that were chosen', agreed_settings(config))
    check_same('images or split of them', experiment.data_sha256 + experiment.split_sha256)
    with contextlib.ExitStack() as stack:
        with failing_together():
            if is_first():
                stack.enter_context(files.lock())
                files.create(
                    config,
                    experiment.split.labeled,
                    validation_ids=experiment.split.validation,
                    class_names=experiment.class_names,
                    input_form=experiment.input_form,
                )
        with failing_together():
            files.check_shared()
        print(experiment.description)
        if experiment.chosen:
            print(experiment.chosen)
        figures = _run(config, files, experiment, mesh, started)
        results = figures | {
            'seed': config.seed,
            'steps': config.total_steps,
            'split_sha256': experiment.split_sha256,
            'num_held_out': len(experiment.split.validation),
            'reported_weights': reported_weights(
                figures, ema_decay=config.ema_decay, total_steps=config.total_steps
            ),
        }
        if is_first():
            write_json(files.results, results)
    print(f'{table(results)}\n{duration(results["wall_time_s"])} in all\n{files.describe()}')
    return results


def _run(config: Any, files: Workdir, experiment: Experiment, mesh: Mesh, started: float) -> dict[str, Any]:
    """Train to the end; where the numbers diverge, from the last checkpoint again, if the config says so."""
    rollbacks = 0
    with stop_on_signals() as stop:
        while True:
            try:
                return _run_once(config, files, experiment, mesh, started, rollbacks, stop)
            except DivergedError as error:
                if config.on_nonfinite != 'rollback' or stop:
                    raise
                if error.rollbacks == MAX_ROLLBACKS:
                    advice = f'{MAX_ROLLBACKS} rollbacks did not help: {NEW_RUN}'
                    raise DivergedError(error.what, advice, rollbacks=MAX_ROLLBACKS) from error
                rollbacks = error.rollbacks + 1
                print(f'{error.what}; rollback {rollbacks} of {MAX_ROLLBACKS}, at half the learning rate')
                started = time.perf_counter()


def _run_once(
    config: Any,
    files: Workdir,
    experiment: Experiment,
    mesh: Mesh,
    started: float,
    rollbacks: int,
    stop: StopRequest,
) -> dict[str, Any]:
    """Restore, train what is left, and sum up."""
    with contextlib.ExitStack() as stack:
        manager, state, record = open_and_restore(files.checkpoints, experiment, mesh)
        stack.enter_context(closing_checkpoints(manager))
        start = int(state.step)
        with failing_together():
            log = RunLog(files.metrics if is_first() else None, start_step=start)
        recorder = Recorder(
            manager,
            stack.enter_context(contextlib.closing(log)),
            stack.enter_context(contextlib.closing(ProgressLine())),
            Pace(start, config.total_steps, images_per_step=(1 + config.unlabeled_ratio) * config.batch_size),
            total_steps=config.total_steps,
            split_sha256=experiment.split_sha256,
            data_sha256=experiment.data_sha256,
            started=started,
            record=record,
            rollbacks=rollbacks,
        )
        recorder.say(f'{files.path}: ' + (f'continuing after step {start}' if start else 'starting'))
        evaluation_due = start == config.total_steps or (start and start % config.eval_every == 0)
        if evaluation_due and not recorder.evaluated(start):
            # It was stopped by a signal before it could, or imported.
            recorder.evaluate(start, state, experiment.evaluate)
        # Closed: its worker processes end.
        host_batches = stack.enter_context(contextlib.closing(experiment.pipeline.host_batches(start)))
        stopped_at = _loop(config, experiment, mesh, host_batches, state, recorder, stop)
    if stopped_at < config.total_steps:
        print(
            f'{stop.name}: saved after step {stopped_at}; the same command continues from there', flush=True
        )
        raise SystemExit(stop.exit_code)
    return summarize(recorder.history) | {
        'rollbacks': recorder.rollbacks,
        'wall_time_s': round(recorder.seconds, 1),
    }


def _loop(
    config: Any,
    experiment: Experiment,
    mesh: Mesh,
    host_batches: Iterator[Any],
    state: TrainState,
    recorder: Recorder,
    stop: StopRequest,
) -> int:
    """Train to the end, or until `stop`; returns the last step done, which is saved."""
    pipeline = experiment.pipeline
    start = step = int(state.step)
    streaming = not jax.tree.leaves(pipeline.device_data)
    max_steps = min(config.steps_per_call or default_steps_per_call(streaming=streaming), config.total_steps)
    train_step = experiment.make_train_step(0.5**recorder.rollbacks)
    run_steps = make_run_steps(train_step, pipeline.to_batch, max_steps=max_steps, mesh=mesh)
    device_data = place(pipeline.device_data, replicated(mesh))
    # Folded with the step inside the step, never changed: resuming needs no key in flight.
    key = jax.jit(jax.random.key, static_argnums=0, out_shardings=replicated(mesh))(config.seed)
    cadences = (config.log_every, config.eval_every, config.checkpoint_every)
    sums = None
    for end in call_ends(start, config.total_steps, max_steps, cadences):
        previous = sums
        with jax.transfer_guard('disallow'):
            batches, count = place_host_batches(host_batches, end - step, max_steps, mesh)
            state, call_sums = run_steps(state, device_data, batches, count, key)
            sums = call_sums if sums is None else metrics.add(sums, call_sums)
            # Waiting for the call *before* this one keeps the device busy and the queue short; without it a
            # signal would have to sit out every call that Python ran ahead.
            jax.block_until_ready(previous)
        if step == start:
            recorder.first_call_done(end, sums)
            # Until here a signal has its usual effect, at once: there is nothing new to save, and compiling
            # would keep it waiting.
            stop.listen()
        step, stopping = end, stop.reached()
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
