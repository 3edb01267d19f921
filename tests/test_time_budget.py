"""`time_budget`: the plan by hand, and runs that end in time and continue as they were planned."""

import json
import types

import jax
import numpy as np
import pytest

from metasemi_jax.config.checks import check_config
from metasemi_jax.config.fields import BUDGETED
from metasemi_jax.config.form import differing_fields
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.progress import parse_duration
from metasemi_jax.training import loop, trial
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.prepared import Prepared
from metasemi_jax.training.recorder import Recorder
from metasemi_jax.training.time_budget import Costs, begun_plan, keep_plan, plan, recipe_of
from metasemi_jax.training.trial import measure
from metasemi_jax.workdir import Workdir
from small_runs import assert_same_state, contents, read_log, read_state, tiny_config

RECIPE = {
    'total_steps': 20_000,
    'optimizer.warmup_steps': 1000,
    'optimizer.milestones': [15_000, 17_500],
    'method.rampup_steps': 1000,
    'log_every': 100,
    'eval_every': 400,
    'checkpoint_every': 2000,
}


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('90s', 90), ('10m', 600), ('1h30m', 5400), ('2d', 172_800), ('0.5h', 1800), ('1d1h1m1s', 90_061),
        ('', None), ('10', None), ('m', None), ('0s', None), ('-5m', None), ('1.2.3m', None), ('30m1h', None),
        ('ten minutes', None),
    ],
)  # fmt: skip
def test_times_by_hand(text, seconds):
    assert parse_duration(text) == seconds


def test_a_budget_that_is_no_time_is_refused():
    check_config(tiny_config(time_budget='10m'))
    with pytest.raises(UserError, match='time_budget=soon must be a time, as 90s, 10m or 1h30m'):
        check_config(tiny_config(time_budget='soon'))


def test_a_plan_by_hand():
    # 110 s - 10 s to compile, 3% spared: 97 s. 50 evaluations of .1 + .05 s, 10 checkpoints of .05 s: 8 s.
    run = plan(RECIPE, Costs(step=0.01, evaluation=0.1, checkpoint=0.05, compilation=10), 110)
    assert run == {
        'total_steps': 8900,
        'optimizer.warmup_steps': 445,
        'optimizer.milestones': [6675, 7788],
        'method.rampup_steps': 445,
        'log_every': 44,
        'eval_every': 178,
        'checkpoint_every': 890,
    }


def test_evaluations_that_take_too_long_become_fewer():
    # 97 s: 20% of them have room for 6 evaluations of 3 s, 10% for 9 checkpoints of 1 s.
    run = plan(RECIPE, Costs(step=0.01, evaluation=2, checkpoint=1, compilation=10), 110)
    assert run['total_steps'] == 7000
    assert 7000 / run['eval_every'] <= 6
    assert 7000 / run['checkpoint_every'] <= 9


def test_a_longer_budget_stretches_the_schedule():
    run = plan(RECIPE, Costs(step=0.001, evaluation=0.1, checkpoint=0.1, compilation=0), 3600)
    assert run['total_steps'] > 3_000_000
    assert run['optimizer.milestones'][0] / run['total_steps'] == pytest.approx(0.75, abs=1e-6)
    assert run['log_every'] == 100


def test_the_plan_never_costs_more_than_the_budget():
    rng = np.random.default_rng(0)
    for _ in range(300):
        costs = Costs(*10 ** rng.uniform(-3, 1, 4))
        seconds = 10 ** rng.uniform(1, 5)
        try:
            run = plan(RECIPE, costs, seconds)
        except UserError:
            continue
        evaluations = -(-run['total_steps'] // run['eval_every'])
        checkpoints = evaluations + -(-run['total_steps'] // run['checkpoint_every'])
        spent = costs.compilation + run['total_steps'] * costs.step
        spent += evaluations * costs.evaluation + checkpoints * costs.checkpoint
        assert spent <= seconds
        assert run['optimizer.warmup_steps'] < run['total_steps']


def test_a_budget_that_is_too_short_is_refused():
    with pytest.raises(
        UserError, match='leaves 10 s after loading and compiling, in which not even 10 steps'
    ):
        plan(RECIPE, Costs(step=1, evaluation=1, checkpoint=1, compilation=10), 20)


def test_runs_of_one_budget_are_the_same_settings_whatever_their_steps():
    first, second = tiny_config(time_budget='1m'), tiny_config(time_budget='1m', total_steps=99)
    assert differing_fields(first.to_dict(), second) == []
    assert differing_fields(first.to_dict(), tiny_config(time_budget='2m')) == [
        'time_budget: 1m there, 2m here'
    ]


def test_a_run_has_the_steps_of_its_plan_and_goes_on_with_them(tmp_path, monkeypatch, capsys):
    config = tiny_config(time_budget='60s', total_steps=1200, optimizer__milestones=(800, 1000))
    # Not the seconds that a busy machine would need.
    monkeypatch.setattr(loop, 'measure', lambda *args: Costs(2.0, 1.0, 0.5, 10.0))
    show = Recorder.show

    def die(recorder, at):
        show(recorder, at)
        # The first evaluation is the best so far, and saved.
        if recorder.evaluated(at):
            raise RuntimeError('died')

    monkeypatch.setattr(Recorder, 'show', die)
    with pytest.raises(RuntimeError):
        train_and_evaluate(config, tmp_path / 'run')
    monkeypatch.setattr(Recorder, 'show', show)

    def refuse(*args):
        raise AssertionError('a run that goes on is not measured again')

    monkeypatch.setattr(loop, 'measure', refuse)
    results = train_and_evaluate(config, tmp_path / 'run')
    planned = json.loads((tmp_path / 'run' / 'time_budget.json').read_text())
    steps = planned['run']['total_steps']
    assert 10 <= steps <= 25
    assert (results['steps'], results['time_budget']) == (steps, '60s')
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert saved['total_steps'] == steps
    assert saved['optimizer']['milestones'] == [round(800 * steps / 1200), round(1000 * steps / 1200)]
    assert planned['recipe']['total_steps'] == 1200
    assert {*planned['run']} == {*BUDGETED}
    # The schedule is run to its end.
    assert read_log(tmp_path / 'run')[-2]['train/lr'] == pytest.approx(0.001)

    # As a run that is given these numbers of steps.
    flat = {name.replace('.', '__'): value for name, value in planned['run'].items()}
    flat['optimizer__milestones'] = tuple(flat['optimizer__milestones'])
    train_and_evaluate(tiny_config(**flat), tmp_path / 'same')
    assert_same_state(read_state(tmp_path / 'run'), read_state(tmp_path / 'same'))

    before = contents(tmp_path / 'run')
    capsys.readouterr()
    assert train_and_evaluate(config, tmp_path / 'run') == results
    assert 'this run is finished' in capsys.readouterr().out
    other = tiny_config(time_budget='60s', total_steps=1200, optimizer__milestones=(600, 1000))
    with pytest.raises(UserError, match=r'optimizer.milestones: \[800, 1000\] there, \[600, 1000\] here'):
        train_and_evaluate(other, tmp_path / 'run')
    for damage, message in (
        ({}, 'time_budget=None must be a time'),
        (planned | {'run': 3}, 'run must hold total_steps, optimizer.warmup_steps, '),
        (planned | {'run': planned['run'] | {'total_steps': '9'}}, "total_steps='9' must be of the type int"),
        (planned | {'run': planned['run'] | {'eval_every': None}}, 'run has a field without a value'),
        (planned | {'recipe': planned['recipe'] | {'log_every': 0}}, 'log_every=0 must be more than 0'),
    ):
        (tmp_path / 'run' / 'time_budget.json').write_text(json.dumps(damage))
        with pytest.raises(UserError, match=rf'time_budget\.json is damaged .{message}'):
            train_and_evaluate(config, tmp_path / 'run')
    (tmp_path / 'run' / 'time_budget.json').write_text(json.dumps(planned, indent=2) + '\n')
    assert contents(tmp_path / 'run') == before


def test_a_refused_budget_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, 'measure', lambda *args: Costs(9.0, 1.0, 0.5, 10.0))
    with pytest.raises(UserError, match=r'time_budget leaves .* give more time'):
        train_and_evaluate(tiny_config(time_budget='60s'), tmp_path / 'runs' / 'new')
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_trained_nothing_is_planned_anew(tmp_path):
    """Killed for memory before its first step, it takes a corrected batch_size, whose steps cost less."""
    config, files = tiny_config(time_budget='60s'), Workdir(tmp_path)
    run = recipe_of(config)
    keep_plan(files, config, run, Costs(1, 1, 1, 1))
    assert begun_plan(files, tiny_config(time_budget='60s', batch_size=4)) is None
    (files.checkpoints / '4').mkdir(parents=True)
    assert begun_plan(files, config) == run


def test_the_trial_measures_and_leaves_nothing(tmp_path):
    """No bound on seconds here: other programs share the machine."""
    config, mesh = tiny_config(ema_decay=0.9), make_mesh()
    experiment = build_experiment(config, mesh)
    before = jax.tree.map(np.copy, experiment.state)
    cached = jax.config.jax_enable_compilation_cache
    costs = measure(experiment, mesh, tmp_path, seconds=5)
    assert min(costs) > 0
    assert costs.step < costs.compilation
    assert list(tmp_path.iterdir()) == []
    jax.tree.map(np.testing.assert_array_equal, experiment.state, before)
    assert jax.config.jax_enable_compilation_cache == cached


def test_a_trial_tells_the_pace_of_the_steps_it_did(monkeypatch):
    """Calls of 4 steps and 1 s each, but for the first, which takes 10 s, and the next, made in advance."""
    clock, calls = [0.0], []

    def run(state, device_data, batches, count, key):
        calls.append(batches)
        clock[0] += 10 if len(calls) == 1 else 0.01 if len(calls) <= 3 else 1
        return state, ()

    monkeypatch.setattr(trial, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(trial, 'place_host_batches', lambda batches, count, most, mesh: (count, count))
    _, step = trial._time_steps(Prepared(run, (), None, 4), 'state', iter(()), None, seconds=0.05)
    assert step == pytest.approx(0.25)
    # One step, two rough calls, then as many as the seconds have room for.
    assert calls[:3] == [1, 4, 4]
    assert len(calls) == 3 + 5
