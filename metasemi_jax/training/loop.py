"""The loop: train, log, evaluate, save, stop and continue."""

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metasemi_jax import metrics
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import agreed_settings
from metasemi_jax.distributed.multi_host import (
    check_same,
    failing_together,
    is_primary,
    naming_lost_peers,
    of_primary,
)
from metasemi_jax.distributed.sharding import check_batch_size, make_mesh, place, replicated
from metasemi_jax.errors import DivergedError, UserError
from metasemi_jax.files import write_json
from metasemi_jax.metrics import Metrics
from metasemi_jax.progress import Pace, ProgressLine, duration, parse_duration, say
from metasemi_jax.results import reported_weights, summarize, table
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import closing_checkpoints
from metasemi_jax.training.experiment import Experiment, build_experiment, rescheduled
from metasemi_jax.training.image_log import first_rows, prediction_sheets, view_sheets
from metasemi_jax.training.initial_weights import begin_from
from metasemi_jax.training.multi_step import call_ends, place_host_batches
from metasemi_jax.training.preemption import StopRequest, stop_on_signals
from metasemi_jax.training.prepared import prepare
from metasemi_jax.training.recorder import NEW_RUN, Recorder
from metasemi_jax.training.resume import open_and_restore
from metasemi_jax.training.run_log import RunLog
from metasemi_jax.training.time_budget import begun_plan, keep_plan, plan, recipe_of, with_plan
from metasemi_jax.training.trial import measure
from metasemi_jax.workdir import Workdir

MAX_ROLLBACKS = 3


class Session(NamedTuple):
    """What one start of a run works with."""

    files: Workdir
    experiment: Experiment
    mesh: Mesh
    started: float  # a `time.perf_counter()`
    log_images: bool


def train_and_evaluate(config: Any, workdir: str, *, log_images: bool = False) -> dict[str, Any]:
    """Train as `config` says, into `workdir`; continue there if a run was begun, report it if it is done.

    Args:
      config: a ConfigDict with the fields of `configs/default.py`.
      workdir: folder of the run, made if it is missing.
      log_images: write a few images to TensorBoard too, at the start and at the end; for one process.

    Returns:
      The contents of `results.json`.

    Raises:
      UserError: settings, data or a workdir that cannot be used (nothing was written), or a loss that is
        no longer a number.
      SystemExit: SIGTERM or Ctrl-C came; the state was saved. The code is 128 + the signal's number.

    Progress is printed within `progress.speaking()`, as by the command; otherwise the function is silent.
    """
    started = time.perf_counter()
    with naming_lost_peers():
        return _train_and_evaluate(config, Workdir(workdir), started, log_images)


def _train_and_evaluate(config: Any, files: Workdir, started: float, log_images: bool) -> dict[str, Any]:
    config, planned = _settings_of_run(config, files)
    with failing_together():
        files.check(config)
        earlier = files.read_results()
        # A run with more total_steps goes on. A finished run that lacks a file, or has a damaged one, passes
        # through all stages, which writes the file.
        longer = earlier is not None and earlier['steps'] < config.total_steps
        finished = earlier is not None and files.is_described() and not longer
    check_same('workdir', str(finished))
    if finished:
        say(f'{files.path}: this run is finished{_on_other_images(config, files)}\n{table(earlier)}')
        return earlier
    with failing_together():
        mesh = make_mesh()
        experiment = _build_experiment(config, files, mesh)
    check_same('settings that were chosen', agreed_settings(experiment.config))
    check_same('images or split of them', experiment.data_sha256 + experiment.split_sha256)
    session = Session(files, experiment, mesh, started, log_images and jax.process_count() == 1)
    with contextlib.ExitStack() as stack:
        with failing_together():
            if is_primary():
                stack.enter_context(files.lock())
        if config.time_budget and not planned:
            session = _with_planned_steps(session)
        with failing_together():
            if is_primary():
                if longer:
                    # These metrics are of fewer steps than config.json is about to name.
                    files.results.rename(files.path / f'results_{earlier["steps"]}.json')
                describe_run(files, session.experiment)
        with failing_together():
            files.check_shared()
        say(experiment.description)
        if experiment.chosen:
            say(experiment.chosen)
        results = _results(session.experiment, _run(session))
        if is_primary():
            write_json(files.results, results)
    say(f'{table(results)}\n{duration(results["wall_time_s"])} in all\n{files.describe()}')
    return results


def _on_other_images(config: Any, files: Workdir) -> str:
    """The images of the finished run, for a user who has named others; '' if they are the same."""
    trained, named = files.read_config()['data'].get('path', ''), config.data.path
    if trained == named:
        return ''
    return f', on the images of {trained}; to train on those of {named}, name another workdir'


def _settings_of_run(config: Any, files: Workdir) -> tuple[Any, bool]:
    """`config` with the choices of the run in `files`, and whether a time budget has fixed its steps."""
    with failing_together():
        # Twice: `with_choices_of_run` needs fields of the right types, and completes the settings.
        check_config(config)
        config = files.with_choices_of_run(config)
        check_config(config)
        planned = begun_plan(files, config)
        config = with_plan(config, planned) if planned else config
    check_same('settings', agreed_settings(config))
    return config, bool(planned)


def _build_experiment(config: Any, files: Workdir, mesh: Mesh) -> Experiment:
    experiment = build_experiment(config, mesh, files.begun_split(config))
    config = experiment.config
    if not experiment.evaluated:
        raise UserError(
            f'workdir={files.path} holds a network that was fitted in memory, without images to evaluate on; '
            f'to train it further, name another folder, and add model.init_from={files.path}'
        )
    check_batch_size(config.batch_size, mesh.size)
    if config.model.init_from and not files.saved_steps():
        experiment, note = begin_from(experiment, config.model.init_from)
        say(note)
    return experiment


def describe_run(files: Workdir, experiment: Experiment) -> None:
    """Write what `predict` and a later start need to know of the run, before its first step."""
    files.create(
        experiment.config,
        experiment.split.labeled,
        validation_ids=experiment.split.validation,
        class_names=experiment.class_names,
        input_spec=experiment.input_spec,
    )


def _results(experiment: Experiment, run_metrics: dict[str, Any]) -> dict[str, Any]:
    """The contents of results.json."""
    config = experiment.config
    weights = reported_weights(run_metrics, ema_decay=config.ema_decay, total_steps=config.total_steps)
    return run_metrics | {
        'seed': config.seed,
        'steps': config.total_steps,
        **({'time_budget': config.time_budget} if config.time_budget else {}),
        'split_sha256': experiment.split_sha256,
        'num_held_out': len(experiment.split.validation),
        'reported_weights': weights,
    }


def _with_planned_steps(session: Session) -> Session:
    """`session` with as many steps as its time budget has room for, which the workdir keeps."""
    files, config = session.files, session.experiment.config
    budget = parse_duration(config.time_budget)
    say(f'time_budget={config.time_budget}: compiling, and timing some steps ...')
    costs = measure(session.experiment, session.mesh, files.path, budget)
    left = float(of_primary(np.asarray(budget - (time.perf_counter() - session.started))))
    run = plan(recipe_of(config), costs, left)
    with failing_together():
        if is_primary():
            keep_plan(files, config, run, costs)
    say(
        f'{run["total_steps"]:,} steps in the {duration(left)} left, of {costs.step:.3g} s each; '
        f'an evaluation ({costs.evaluation:.2g} s) every {run["eval_every"]:,}'
    )
    return session._replace(experiment=rescheduled(session.experiment, with_plan(config, run)))


def _run(session: Session) -> dict[str, Any]:
    """Train to the end; if the loss diverges and the config says so, go back to the last checkpoint."""
    rollbacks = 0
    with stop_on_signals() as stop:
        while True:
            try:
                return _run_once(session, rollbacks, stop)
            except DivergedError as error:
                if session.experiment.config.on_nonfinite != 'rollback' or stop:
                    raise
                if error.rollbacks == MAX_ROLLBACKS:
                    advice = f'{MAX_ROLLBACKS} rollbacks did not help: {NEW_RUN}'
                    raise DivergedError(error.what, advice, rollbacks=MAX_ROLLBACKS) from error
                rollbacks = error.rollbacks + 1
                say(f'{error.what}; rollback {rollbacks} of {MAX_ROLLBACKS}, at half the learning rate')
                session = session._replace(started=time.perf_counter())


def _run_once(session: Session, rollbacks: int, stop: StopRequest) -> dict[str, Any]:
    """Restore, train what is left, and sum up."""
    files, experiment = session.files, session.experiment
    config = experiment.config
    with contextlib.ExitStack() as stack:
        manager, state, record = open_and_restore(files.checkpoints, experiment, session.mesh)
        stack.enter_context(closing_checkpoints(manager))
        start = int(state.step)
        with failing_together():
            log = RunLog(files.metrics if is_primary() else None, start_step=start)
        recorder = Recorder(
            manager,
            stack.enter_context(contextlib.closing(log)),
            stack.enter_context(contextlib.closing(ProgressLine())),
            Pace(start, config.total_steps, images_per_step=(1 + config.unlabeled_ratio) * config.batch_size),
            total_steps=config.total_steps,
            num_classes=len(experiment.class_names),
            identity={'split_sha256': experiment.split_sha256, 'data_sha256': experiment.data_sha256},
            started=session.started,
            record=record,
            rollbacks=rollbacks,
        )
        recorder.say(f'{files.path}: ' + (f'continuing after step {start}' if start else 'starting'))
        evaluation_due = start == config.total_steps or (start and start % config.eval_every == 0)
        if evaluation_due and not recorder.evaluated(start):
            # A signal stopped the run before this evaluation, or the checkpoint was imported.
            lowest = recorder.evaluate(start, state, experiment.evaluate, experiment.probe)
            if lowest or start == config.total_steps or start % config.checkpoint_every == 0:
                recorder.amend(start, state)
        # Closing the generator ends its worker processes.
        host_batches = stack.enter_context(contextlib.closing(experiment.pipeline.host_batches(start)))
        stopped_at = _loop(session, host_batches, state, recorder, stop)
    if stopped_at < config.total_steps:
        say(f'{stop.name}: saved after step {stopped_at}; the same command continues from there')
        raise SystemExit(stop.exit_code)
    return summarize(recorder.history) | {
        'rollbacks': recorder.rollbacks,
        'warnings': [warned._asdict() for warned in recorder.warnings],
        'wall_time_s': round(recorder.seconds, 1),
    }


def _loop(
    session: Session, host_batches: Iterator[Any], state: TrainState, recorder: Recorder, stop: StopRequest
) -> int:
    """Train to the end, or until `stop`; returns the last step done, which is saved."""
    experiment, mesh = session.experiment, session.mesh
    config, start = experiment.config, int(state.step)
    step, views = start, None
    run_steps, device_data, key, max_steps = prepare(experiment, mesh, lr_factor=0.5**recorder.rollbacks)
    if session.log_images and start == 0:
        # The first step trains on this batch too.
        first = next(host_batches)
        host_batches = itertools.chain([first], host_batches)
        shown = experiment.pipeline.to_batch, device_data, first_rows(first), experiment.input_spec, key
        views = functools.partial(view_sheets, *shown)
    sums = place(recorder.window, replicated(mesh)) if recorder.window else None
    for end in call_ends(start, config.total_steps, max_steps, _cadences(config)):
        previous = sums
        with jax.transfer_guard('disallow'):
            batches, count = place_host_batches(host_batches, end - step, max_steps, mesh)
            if step == start:
                recorder.compiling()
                run_steps = run_steps.lower(state, device_data, batches, count, key).compile()
                # Until here a signal has its usual effect, at once: there is nothing new to save, and
                # compiling would keep it waiting.
                stop.listen()
                recorder.compiled(start)
            state, call_sums = run_steps(state, device_data, batches, count, key)
            sums = call_sums if sums is None else metrics.add(sums, call_sums)
            # Waiting for the call *before* this one keeps the device busy and the queue short; without it a
            # signal would have to sit out every call that Python ran ahead.
            jax.block_until_ready(previous)
        if step == start:
            recorder.first_call_done(end, sums)
            if views:
                recorder.show_images(0, views())
        step, stopping = end, stop.reached()
        sums = _record(session, step, state, sums, recorder, stopping=stopping)
        if stopping:
            break
    return step


def _cadences(config: Any) -> tuple[int, int, int]:
    return config.log_every, config.eval_every, config.checkpoint_every


def _record(
    session: Session, step: int, state: TrainState, sums: Metrics, recorder: Recorder, *, stopping: bool
) -> Metrics | None:
    """Log, evaluate, save and draw what is due after `step`; returns the sums of the window that goes on."""
    experiment = session.experiment
    config = experiment.config
    last = step == config.total_steps
    due = last or any(step % cadence == 0 for cadence in _cadences(config))
    if not (stopping or due):
        recorder.tick(step)
        return sums
    if due:
        # A stop in between leaves the window open: the run goes on with its sums.
        recorder.log(step, sums)
        sums = None
    # A stop does not wait for an evaluation; the run makes up for it when it goes on.
    evaluating = last or (step % config.eval_every == 0 and not stopping)
    lowest = evaluating and recorder.evaluate(step, state, experiment.evaluate, experiment.probe)
    scheduled = last or lowest or step % config.checkpoint_every == 0
    if stopping or scheduled:
        recorder.save(step, state, sums=sums, scheduled=scheduled)
    # After the save: if the disk is full, weights are worth more than pictures.
    if last and session.log_images:
        recorder.show_images(step, _prediction_sheets(experiment, state))
    if due:
        recorder.show(step)
    return sums


def _prediction_sheets(experiment: Experiment, state: TrainState) -> dict[str, np.ndarray]:
    predict = functools.partial(jax.jit(experiment.predict), state.variables)
    return prediction_sheets(predict, experiment.examples(), experiment.class_names)
