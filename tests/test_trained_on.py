"""A finished run is trained on: with more steps, or as the beginning of another run."""

import json

import jax
import numpy as np
import pytest

from metasemi_jax.data.sources import registry
from metasemi_jax.errors import UserError
from metasemi_jax.training import loop
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recorder import Recorder
from small_runs import assert_same_state, contents, make_run, read_log, read_state, tiny_config


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A run with EMA weights, as training leaves it."""
    config = tiny_config(ema_decay=0.9)
    return make_run(tmp_path_factory.mktemp('source') / 'run', config, {8: 5.0, 12: 9.0})


def began_with(monkeypatch, config, workdir):
    """The state before the first step."""

    class BeganError(Exception):
        pass

    states = []

    def look(session):
        states.append(session.experiment.state)
        raise BeganError

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_run', look)
        with pytest.raises(BeganError):
            train_and_evaluate(config, workdir)
    return states[0]


@pytest.mark.parametrize(
    ('suffix', 'step', 'field'), [('', 12, 'params'), (':best', 8, 'params'), (':best_ema', 8, 'ema')]
)
def test_a_run_begins_with_the_weights_of_another(source, tmp_path, monkeypatch, capsys, suffix, step, field):
    config = tiny_config(model__init_from=f'{source}{suffix}', data__num_labels=20, ema_decay=0.9)
    state = began_with(monkeypatch, config, tmp_path / 'run')
    saved = read_state(source, step)
    prefix = "['ema']['params']" if field == 'ema' else "['params']"
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        np.testing.assert_array_equal(leaf, saved[prefix + jax.tree_util.keystr(path)])
    # The average begins there too, the steps and the momentum anew.
    jax.tree.map(np.testing.assert_array_equal, state.ema['params'], state.params)
    assert int(state.step) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    out = capsys.readouterr().out
    assert f'of {source}, after step {step}, its last layer included' in out


def test_other_classes_get_a_new_last_layer(source, tmp_path, monkeypatch, capsys):
    dataset = registry.load_dataset('digits')
    small, test = dataset.train_labels < 5, dataset.test_labels < 5
    fewer = dataset._replace(
        train_images=dataset.train_images[small],
        train_labels=dataset.train_labels[small],
        train_ids=dataset.train_ids[small],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_labels[test],
        test_ids=dataset.test_ids[test],
        class_names=dataset.class_names[:5],
    )
    monkeypatch.setitem(registry.SOURCES, 'digits', lambda: fewer)
    config = tiny_config(model__init_from=str(source), data__num_labels=25, total_steps=4)
    state = began_with(monkeypatch, config, tmp_path / 'run')
    saved = read_state(source)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        if 'classifier' not in name:
            np.testing.assert_array_equal(leaf, saved["['params']" + name])
    assert state.params['classifier']['kernel'].shape[-1] == 5
    assert 'but for the last layer: other classes there (10) than here (5)' in capsys.readouterr().out


def test_a_run_that_goes_on_needs_the_other_no_more(source, tmp_path, monkeypatch):
    config = tiny_config(model__init_from=str(source), data__num_labels=20)
    whole = train_and_evaluate(config, tmp_path / 'whole')
    show = Recorder.show

    def die(recorder, at):
        show(recorder, at)
        if at == 6:
            raise RuntimeError('died')

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, 'show', die)
        with pytest.raises(RuntimeError):
            train_and_evaluate(config, tmp_path / 'run')
    monkeypatch.setattr(loop, 'begin_from', lambda *args: 1 / 0)
    results = train_and_evaluate(config, tmp_path / 'run')
    assert {**results, 'wall_time_s': 0} == {**whole, 'wall_time_s': 0}
    assert_same_state(read_state(tmp_path / 'run'), read_state(tmp_path / 'whole'))


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'model__width': 4}, 'its width is 2, here it is 4; add model.width=2'),
        (
            {'model__name': 'wide_resnet', 'model__dropout_rate': 0.0},
            'its network is mlp; add model.name',
        ),
        ({'model__init_from': '/nowhere'}, 'model.init_from=/nowhere: /nowhere does not exist'),
    ],
)
def test_weights_that_do_not_fit_are_refused(source, tmp_path, changed, message):
    config = tiny_config(**{'model__init_from': str(source)} | changed)
    with pytest.raises(UserError) as refused:
        train_and_evaluate(config, tmp_path / 'run')
    assert message in str(refused.value)
    assert '\n' not in str(refused.value)
    assert not (tmp_path / 'run').exists()


def test_a_run_cannot_begin_with_itself(source):
    config = tiny_config(model__init_from=str(source), ema_decay=0.9)
    before = contents(source)
    with pytest.raises(UserError, match='holds a run with another config'):
        train_and_evaluate(config, source)
    assert contents(source) == before


def test_more_steps_in_the_same_folder_are_the_longer_run(tmp_path):
    longer = {'total_steps': 16, 'optimizer__milestones': (8, 10)}
    train_and_evaluate(tiny_config(**longer), tmp_path / 'whole')
    short = train_and_evaluate(tiny_config(), tmp_path / 'run')
    results = train_and_evaluate(tiny_config(**longer), tmp_path / 'run')
    assert results['steps'] == 16
    assert json.loads((tmp_path / 'run' / 'results_12.json').read_text()) == short
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['total_steps'] == 16
    assert_same_state(read_state(tmp_path / 'run'), read_state(tmp_path / 'whole'))
    assert read_log(tmp_path / 'run') == read_log(tmp_path / 'whole')


@pytest.mark.parametrize(
    'changed',
    [
        {'total_steps': 16, 'seed': 1},
        {'total_steps': 8},
        {'total_steps': 16, 'optimizer__schedule': 'cosine'},
    ],
)
def test_more_steps_are_refused_where_the_first_ones_were_others(tmp_path, changed):
    schedule = {name: value for name, value in changed.items() if name == 'optimizer__schedule'}
    make_run(tmp_path / 'run', tiny_config(**schedule))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r'total_steps: 12 there.*add model.init_from='):
        train_and_evaluate(tiny_config(**changed), tmp_path / 'run')
    assert contents(tmp_path) == before
