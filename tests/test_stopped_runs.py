"""A run that was stopped keeps what an undisturbed one keeps: checkpoints, history, log, results."""

import json
import shutil
import signal

import numpy as np
import pytest

from metasemi_jax.classifier import load_classifier
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.training import checkpoint, loop
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.preemption import StopRequest
from metasemi_jax.training.restore import best_step
from small_runs import assert_same_state, read_log, read_state, tiny_config

# Steps 3, 6, ... are evaluated, 5, 10 saved; 9 is a log, an evaluation and no checkpoint.
CONFIG = {'log_every': 3, 'eval_every': 3, 'checkpoint_every': 5}


def kept(workdir):
    """Step -> error and record of each checkpoint, without the wall time."""
    with closing_checkpoints(open_checkpoints(workdir / 'checkpoints', read_only=True)) as manager:
        steps = sorted(manager.all_steps())
        metrics = {step: manager.metrics(step) for step in steps}
        best = best_step(manager)
    records = {}
    for step in steps:
        path = workdir / 'checkpoints' / str(step) / 'record' / 'metadata'
        records[step] = json.loads(path.read_text())['record'] | {'seconds': 0}
    return metrics, records, best


def timeless(results):
    return {**results, 'wall_time_s': 0}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    return workdir, train_and_evaluate(tiny_config(**CONFIG), workdir)


def stop_after(monkeypatch, *steps):
    """SIGTERM after the n-th step of each start, one start for each of `steps`."""
    remaining = list(steps)

    def reached(request):
        request._calls += 1
        if remaining and request._calls == remaining[0]:
            remaining.pop(0)
            request.signal = signal.SIGTERM
        return bool(request)

    monkeypatch.setattr(StopRequest, 'reached', reached)


@pytest.mark.parametrize(
    'stops',
    [
        (3,),  # where an evaluation is due, nothing saved yet
        (4, 2, 3, 2),  # at 4 and 11 between two logs, at 6 and 9 where an evaluation is due
    ],
)
def test_stops_leave_no_trace(undisturbed, tmp_path, monkeypatch, capsys, stops):
    stop_after(monkeypatch, *stops)
    for _ in stops:
        with pytest.raises(SystemExit) as stopped:
            train_and_evaluate(tiny_config(**CONFIG), tmp_path)
        assert stopped.value.code == 143
    results = train_and_evaluate(tiny_config(**CONFIG), tmp_path)
    assert timeless(results) == timeless(undisturbed[1])
    metrics, records, best = kept(tmp_path)
    assert (metrics, records, best) == kept(undisturbed[0])
    assert best == results['best_checkpoint']['step']
    for step in metrics:
        assert_same_state(read_state(tmp_path, step), read_state(undisturbed[0], step))
    assert read_log(tmp_path) == read_log(undisturbed[0])
    assert load_classifier(tmp_path, weights='best').step == best


def test_a_kill_between_the_evaluation_and_its_writing_is_made_up_for(undisturbed, tmp_path, monkeypatch):
    stop_after(monkeypatch, 3)
    with pytest.raises(SystemExit):
        train_and_evaluate(tiny_config(**CONFIG), tmp_path)

    # The metrics are written, the record is not.
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, '_signed', killed)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(tiny_config(**CONFIG), tmp_path)
    monkeypatch.undo()
    results = train_and_evaluate(tiny_config(**CONFIG), tmp_path)
    assert timeless(results) == timeless(undisturbed[1])
    assert kept(tmp_path) == kept(undisturbed[0])


def imported(undisturbed, workdir, config, *, step):
    """A run as `torch_import` makes it: one checkpoint, never evaluated, with a bare record."""
    experiment = build_experiment(config, make_mesh())
    shutil.copytree(
        undisturbed, workdir, ignore=shutil.ignore_patterns('checkpoints', 'results.json', '*.jsonl')
    )
    (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
    record = {'history': [], 'seconds': 0.0, 'split_sha256': experiment.split_sha256}
    state = experiment.state.replace(step=np.int32(step))
    with closing_checkpoints(open_checkpoints(workdir / 'checkpoints')) as manager:
        save_checkpoint(manager, state, record, step=step, error=None)


def test_an_imported_checkpoint_is_kept_while_it_is_the_best(undisturbed, tmp_path, monkeypatch):
    # A rate of 0 leaves the parameters, but the statistics move; so the errors are made up.
    errors = iter([10.0, 30.0, 30.0, 30.0])
    config = tiny_config(**CONFIG, optimizer__lr=0.0)
    imported(undisturbed[0], tmp_path / 'run', config, step=3)

    def build(*args):
        return build_experiment(*args)._replace(evaluate=lambda _: {'test': {'error': next(errors)}})

    monkeypatch.setattr(loop, 'build_experiment', build)
    results = train_and_evaluate(config, tmp_path / 'run')
    assert results['best_checkpoint']['step'] == 3
    assert kept(tmp_path / 'run')[2] == 3
    assert sorted(kept(tmp_path / 'run')[0]) == [3, 10, 12]


def test_an_import_of_the_last_step_is_evaluated_and_the_best(undisturbed, tmp_path):
    config = tiny_config(**CONFIG)
    imported(undisturbed[0], tmp_path / 'run', config, step=12)
    results = train_and_evaluate(config, tmp_path / 'run')
    assert results['best_checkpoint']['step'] == 12
    metrics, records, best = kept(tmp_path / 'run')
    assert best == 12
    assert metrics[12]['error'] == results['test_error_last']
    assert records[12]['history'] == [[12, {'test_error': results['test_error_last']}]]
    assert load_classifier(tmp_path / 'run', weights='best').step == 12
