import json
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.data.sources import registry as sources
from metasemi_jax.data.splits import split_sha256
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import DivergedError, UserError
from metasemi_jax.training import experiment as experiment_module
from metasemi_jax.training import loop as train_module
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recorder import Recorder
from small_runs import assert_same_state, contents, read_log, read_state, tiny_config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """An undisturbed run with EMA weights: its folder and what it returned."""
    workdir = tmp_path_factory.mktemp('finished') / 'run'
    return workdir, train_and_evaluate(tiny_config(ema_decay=0.9), workdir)


def test_a_run_leaves_its_figures_behind(finished):
    workdir, results = finished
    assert results == json.loads((workdir / 'results.json').read_text())
    errors = [line['test/error'] for line in read_log(workdir) if 'test/error' in line]
    ema_errors = [line['test/ema_error'] for line in read_log(workdir) if 'test/error' in line]
    assert len(errors) == 3  # every 4 of 12 steps
    for prefix, series in (('', errors), ('ema_', ema_errors)):
        assert results[f'{prefix}test_error_last'] == series[-1]
        assert results[f'{prefix}test_error_median20'] == sorted(series)[1]
        assert results[f'{prefix}test_error_best'] == min(series)
    assert results['selected_on_test_set'] == ['test_error_best', 'ema_test_error_best']
    assert (results['seed'], results['steps']) == (0, 12)
    assert results['wall_time_s'] > 0
    labeled_ids = (workdir / 'labeled_ids.txt').read_text().split()
    assert len(labeled_ids) == 50
    assert results['split_sha256'] == split_sha256(labeled_ids)
    assert list(workdir.glob('events.out.tfevents.*'))


def test_what_is_logged(finished):
    training = [line for line in read_log(finished[0], without=()) if 'train/loss' in line]
    assert [line['step'] for line in training] == [2, 4, 6, 8, 10, 12]
    for name in (
        'train/pseudo_label_accuracy_before',
        'train/pseudo_label_accuracy_after',
        'train/pseudo_label_entropy_before',
        'train/pseudo_label_change',
        'train/pseudo_label_clipped',
        'train/label_grad_norm',
        'images_per_second',
    ):
        assert all(np.isfinite(line[name]) for line in training), name
    # The mean of lr over steps 0 and 1 of a warm-up of 2, then 0.1, then after steps 8 and 10.
    assert [line['train/lr'] for line in training] == pytest.approx([0.025, 0.1, 0.1, 0.1, 0.055, 0.0055])


def test_training_moves_every_parameter(finished):
    start = build_experiment(tiny_config(), make_mesh()).state.params
    end = read_state(finished[0])
    for path, before in jax.tree_util.tree_leaves_with_path(start):
        after = end["['params']" + jax.tree_util.keystr(path)]
        assert np.all(np.asarray(before) != after), path


def test_a_finished_run_is_reported_and_left_alone(finished, capsys):
    workdir, results = finished
    before = contents(workdir)
    assert train_and_evaluate(tiny_config(ema_decay=0.9), workdir) == results
    assert 'this run is finished' in capsys.readouterr().out
    assert contents(workdir) == before


def test_a_finished_run_of_an_older_version_gets_its_input_spec(finished):
    workdir, results = finished
    expected, log = (workdir / 'input.json').read_bytes(), read_log(workdir)
    state = read_state(workdir)
    (workdir / 'input.json').unlink()
    again = train_and_evaluate(tiny_config(ema_decay=0.9), workdir)
    assert (workdir / 'input.json').read_bytes() == expected
    assert {**again, 'wall_time_s': 0} == {**results, 'wall_time_s': 0}
    assert read_log(workdir) == log
    assert_same_state(read_state(workdir), state)


def test_another_config_is_refused_by_field(finished):
    workdir, _ = finished
    before = contents(workdir)
    with pytest.raises(UserError, match=r'ema_decay: 0.9 there, 0.0 here; seed: 0 there, 3 here'):
        train_and_evaluate(tiny_config(seed=3), workdir)
    assert contents(workdir) == before


@pytest.mark.parametrize('step', [2, 6, 8])
def test_a_run_that_died_continues_bit_for_bit(finished, tmp_path, monkeypatch, step):
    show = Recorder.show

    def die(recorder, at):
        show(recorder, at)
        if at == step:
            raise RuntimeError('died')

    monkeypatch.setattr(Recorder, 'show', die)
    with pytest.raises(RuntimeError, match='died'):
        train_and_evaluate(tiny_config(ema_decay=0.9), tmp_path)
    monkeypatch.undo()
    # What a kill leaves: a half-written line, and lines of steps that no checkpoint holds.
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 9, "train/loss": 1.0}\n{"step": 10, "tra')
    results = train_and_evaluate(tiny_config(ema_decay=0.9), tmp_path)
    assert_same_state(read_state(finished[0]), read_state(tmp_path))
    assert read_log(finished[0]) == read_log(tmp_path)
    same = {name: value for name, value in results.items() if name != 'wall_time_s'}
    assert same == {name: value for name, value in finished[1].items() if name != 'wall_time_s'}


def test_many_steps_a_call_train_the_same(finished, tmp_path):
    train_and_evaluate(tiny_config(ema_decay=0.9, steps_per_call=3), tmp_path)
    one, many = read_state(finished[0]), read_state(tmp_path)
    for name in one:
        # XLA fuses a loop's body otherwise: equal but for rounding.
        np.testing.assert_allclose(one[name], many[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_garbage_labels_of_the_unlabeled_pool_change_no_bit(finished, tmp_path, monkeypatch):
    dataset = sources.load_dataset('digits')
    labeled_ids = (finished[0] / 'labeled_ids.txt').read_text().split()
    labeled = np.isin(dataset.train_ids, labeled_ids)
    garbage = np.random.default_rng(0).integers(-1, 10, len(labeled)).astype(np.int32)
    spoiled = dataset._replace(train_labels=np.where(labeled, dataset.train_labels, garbage))
    monkeypatch.setitem(sources.SOURCES, 'digits', lambda: spoiled)
    # The split is drawn from the labels; here it is given, as it would be with images that have none.
    (tmp_path / 'labeled_ids.txt').write_text('\n'.join(labeled_ids) + '\n')
    train_and_evaluate(tiny_config(ema_decay=0.9), tmp_path)
    assert_same_state(read_state(finished[0]), read_state(tmp_path))
    assert read_log(finished[0]) != read_log(tmp_path)  # the metrics did see the garbage


def test_the_step_is_traced_once(tmp_path, monkeypatch):
    make_train_step = experiment_module.make_train_step
    monkeypatch.setattr(
        experiment_module,
        'make_train_step',
        lambda *args, **kwargs: chex.assert_max_traces(make_train_step(*args, **kwargs), n=1),
    )
    train_and_evaluate(tiny_config(), tmp_path)


@pytest.mark.parametrize(('meta', 'mixup'), [(False, False), (True, False), (False, True)])
def test_every_row_of_the_ablation_trains(finished, tmp_path, meta, mixup):
    config = tiny_config(method__meta=meta, method__mixup=mixup)
    train_and_evaluate(config, tmp_path)
    training = [line for line in read_log(tmp_path) if 'train/loss' in line]
    assert ('train/consistency_loss' in training[-1]) == meta
    assert ('train/pseudo_label_accuracy_before' in training[-1]) == (meta or mixup)
    if not mixup:
        # With mix-up the targets are the network's own predictions: its loss need not fall at first.
        assert training[-1]['train/loss'] < training[0]['train/loss']
    assert (tmp_path / 'labeled_ids.txt').read_text() == (finished[0] / 'labeled_ids.txt').read_text()


@pytest.mark.parametrize('dtype', ['auto', 'bfloat16'])
def test_parameters_are_float32_in_every_dtype(tmp_path, dtype):
    # Flax's BatchNorm relies on the standard promotion where it normalises bfloat16 by float32 statistics.
    with jax.numpy_dtype_promotion('standard'):
        train_and_evaluate(tiny_config(total_steps=4, dtype=dtype), tmp_path)
    state = read_state(tmp_path)
    assert {value.dtype.name for value in state.values()} == {'float32', 'int32'}


def test_a_diverged_run_stops_and_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    def explode_after_step_5(*args, **kwargs):
        return lambda step: jnp.where(step < 5, 0.1, jnp.inf)

    monkeypatch.setattr(experiment_module, 'warmup_piecewise_schedule', explode_after_step_5)
    with pytest.raises(UserError, match='at step 8; the last good checkpoint is of step 4'):
        train_and_evaluate(tiny_config(log_every=4), tmp_path)
    for name, value in read_state(tmp_path).items():
        assert np.all(np.isfinite(value)), name


def exploding(*rates):
    """A schedule that is infinite from step 5 on, unless the rate is below all of `rates`."""

    def schedule(lr, **options):
        return lambda step: jnp.where((step < 5) | (lr < min(rates)), lr, jnp.inf)

    return schedule


def test_a_rollback_goes_on_from_the_last_checkpoint_at_half_the_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment_module, 'warmup_piecewise_schedule', exploding(0.04))
    config = tiny_config(on_nonfinite='rollback', method__mixup=False)
    results = train_and_evaluate(config, tmp_path)
    printed = capsys.readouterr().out
    assert 'the last good checkpoint is of step 4; rollback 1 of 3, at half the learning rate' in printed
    assert 'rollback 2 of 3' in printed
    assert 'rollback 3' not in printed
    assert results['rollbacks'] == 2
    logged = [line for line in read_log(tmp_path) if 'train/lr' in line]
    assert [line['step'] for line in logged] == [2, 4, 6, 8, 10, 12]
    assert [line['train/lr'] for line in logged] == pytest.approx([0.1, 0.1, *[0.025] * 4])
    assert np.isfinite([results['test_error_last'], results['test_error_best']]).all()
    for name, value in read_state(tmp_path).items():
        assert np.all(np.isfinite(value)), name

    # A restart goes on at the rate that it had come to; and 'stop' is another way to continue the same run.
    (tmp_path / 'results.json').unlink()
    shutil.rmtree(tmp_path / 'checkpoints' / '12')
    train_and_evaluate(tiny_config(on_nonfinite='stop', method__mixup=False), tmp_path)
    assert [line['train/lr'] for line in read_log(tmp_path) if 'train/lr' in line][-2:] == pytest.approx(
        [0.025, 0.025]
    )


def test_three_rollbacks_are_enough(tmp_path, monkeypatch):
    tried = []

    def diverge(session, rollbacks, stop):
        tried.append(rollbacks)
        raise DivergedError('the loss is nan at step 8', 'Advice.', rollbacks=rollbacks)

    monkeypatch.setattr(train_module, '_run_once', diverge)
    for on_nonfinite, expected, message in (
        ('stop', [0], 'Advice.'),
        ('rollback', [0, 1, 2, 3], '3 rollbacks did not help: Start again in a new workdir'),
    ):
        tried.clear()
        with pytest.raises(DivergedError, match=f'nan at step 8. {message}'):
            train_and_evaluate(tiny_config(on_nonfinite=on_nonfinite), tmp_path)
        assert tried == expected


def test_a_signal_is_not_answered_by_a_rollback(tmp_path, monkeypatch):
    def diverge_after_a_signal(session, rollbacks, stop):
        assert rollbacks == 0
        stop.signal = signal.SIGTERM
        raise DivergedError('the loss is nan at step 8', 'Advice.', rollbacks=rollbacks)

    monkeypatch.setattr(train_module, '_run_once', diverge_after_a_signal)
    with pytest.raises(DivergedError, match=r'nan at step 8. Advice\.'):
        train_and_evaluate(tiny_config(on_nonfinite='rollback'), tmp_path)


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    # The loss of step 3 is still finite; the update that ends it spoils the parameters. Without the
    # meta-gradient, which would see the learning rate before.
    def explode_at_step_3(*args, **kwargs):
        return lambda step: jnp.where(step < 3, 0.1, jnp.inf)

    monkeypatch.setattr(experiment_module, 'warmup_piecewise_schedule', explode_at_step_3)
    with pytest.raises(UserError, match='statistic is not finite at step 4; nothing was saved yet'):
        train_and_evaluate(tiny_config(log_every=4, method__meta=False), tmp_path)
    assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))


def test_another_split_is_refused(finished, tmp_path, monkeypatch):
    def die(recorder, at):
        raise RuntimeError('died')

    monkeypatch.setattr(Recorder, 'show', die)
    config = tiny_config(log_every=4)
    with pytest.raises(RuntimeError):
        train_and_evaluate(config, tmp_path)
    monkeypatch.undo()
    ids = (tmp_path / 'labeled_ids.txt').read_text().split()
    other = next(name for name in sources.load_dataset('digits').train_ids if name not in ids)
    (tmp_path / 'labeled_ids.txt').write_text('\n'.join([other, *ids[1:]]) + '\n')
    with pytest.raises(UserError, match='not the split that this run was trained on'):
        train_and_evaluate(config, tmp_path)


def test_all_labels_leave_nothing_to_learn_from(tmp_path, monkeypatch):
    dataset = sources.load_dataset('digits')
    few = np.concatenate([np.flatnonzero(dataset.train_labels == k)[:5] for k in range(10)])
    small = dataset._replace(
        train_images=dataset.train_images[few],
        train_labels=dataset.train_labels[few],
        train_ids=dataset.train_ids[few],
    )
    monkeypatch.setitem(sources.SOURCES, 'digits', lambda: small)
    with pytest.raises(UserError, match='leaves no unlabeled image'):
        train_and_evaluate(tiny_config(), tmp_path / 'meta')
    assert not (tmp_path / 'meta').exists()
    train_and_evaluate(tiny_config(method__meta=False, method__mixup=False), tmp_path / 'labels')
