"""A few cases of tests/helpers/fuzz_workdir.py, and what messages advise, done."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from fuzz_workdir import CONFIG, commands, damages, make_sweep, restore, try_one
from metasemi_jax.classifier import load_classifier
from metasemi_jax.errors import UserError
from metasemi_jax.predict import __main__ as predict
from metasemi_jax.training.damaged import check_readable
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.restore import restore_newest
from metasemi_jax.workdir import Workdir
from small_runs import contents, make_run, tiny_config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A finished sweep of one run, and a copy to mend it from."""
    here = tmp_path_factory.mktemp('damaged')
    run = make_sweep(here / 'sweep')
    shutil.copytree(here / 'sweep', here / 'copy')
    return here / 'sweep', run, here / 'copy'


# Which damages of a file are tried, every nth, and the commands that read it first.
CASES = {
    'config.json': (41, ['main', 'report']),
    'results.json': (17, ['main', 'report']),
    'input.json': (7, ['main', 'predict']),
    'class_names.json': (9, ['main', 'predict']),
    'sweep.json': (61, ['report', 'sweep']),
}


@pytest.mark.parametrize('name', CASES)
def test_a_damaged_file_ends_a_command_in_one_line(finished, name):
    folder, run, copy = finished
    every, names = CASES[name]
    file = (folder if name == 'sweep.json' else run) / name
    cases = list(damages(file, file.read_bytes()))[::every]
    found = [
        f'{what[:80]}: {command}: {fault}'
        for what, content in cases
        for command, fault in try_one(folder, file, content, names, run, copy)
        if fault
    ]
    assert len(cases) > 5
    assert found == []


def write(path, value):
    path.write_text(json.dumps(value))


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / 'run')


WRONG = {
    'class_names.json': [
        ([], 'it names no class'),
        (['a', 'a'], "'a' must be the name of a class"),
        ([1, 2], '1 must be the name of a class'),
        (list('abcdefghi'), 'class_names.json names 9 classes, the checkpoints have 10'),
    ],
    'input.json': [
        ({'image_shape': '888', 'mean': [0], 'std': [1]}, "image_shape='888' must be a list of whole num"),
        ({'image_shape': [8, -8, 1], 'mean': [0], 'std': [1]}, r'image_shape=\[8, -8, 1\] must be'),
        ({'image_shape': [8, 8, 1], 'mean': [0], 'std': [0]}, r'std=\[0\] must be a list of numbers more'),
        ({'image_shape': [8, 8, 1], 'mean': [0, 0], 'std': [1, 1]}, 'a number for each of the 1 channels'),
        ({'image_shape': [8, 8, 3], 'mean': [0] * 3, 'std': [1] * 3}, 'images of 3 channels, the checkp'),
    ],
    'config.json': [
        ({'data': 3}, 'data=3 must be a group of fields'),
        ({'seed': '1'}, "seed='1' must be of the type int"),
    ],
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_file_field_and_remedy_are_named(run, name):
    for value, message in WRONG[name]:
        write(run / name, value)
        with pytest.raises(UserError, match=message) as caught:
            load_classifier(run)
        assert str(run / name) in str(caught.value)
        remedy = (
            'no command can write it again' if name == 'config.json' else 'start the command that trained'
        )
        assert remedy in str(caught.value)


def test_results_are_checked(run):
    results = json.loads((run / 'results.json').read_text())
    for change, message in (
        ({'test_error_last': '4'}, "test_error_last='4' must be a number of percent"),
        ({'ema_test_error_best': 101}, 'ema_test_error_best=101 must be'),
        ({'steps': None}, 'steps=None must be'),
    ):
        write(run / 'results.json', results | change)
        with pytest.raises(UserError, match=message) as caught:
            Workdir(run).read_results()
        assert 'delete it, and start the command that trained this run again' in str(caught.value)
    write(run / 'results.json', {'steps': 4})
    with pytest.raises(UserError, match=r'neither test_error_last nor validation_error_last'):
        Workdir(run).read_results()


def test_what_messages_advise_brings_the_files_back(run, capsys):
    """A start of the finished run rewrites what is damaged or deleted, the same to the byte."""
    before = contents(run)
    (run / 'class_names.json').write_text('[]')
    (run / 'input.json').write_text('{')
    for name in ('labeled_ids.txt', 'validation_ids.txt', 'results.json'):
        (run / name).unlink()
    train_and_evaluate(CONFIG, str(run))
    assert 'step 4/4' not in capsys.readouterr().out
    for name in ('class_names.json', 'input.json', 'labeled_ids.txt', 'validation_ids.txt'):
        assert (run / name).read_bytes() == before[run / name]
    results = json.loads((run / 'results.json').read_text())
    expected = json.loads(before[run / 'results.json'])
    for each in (results, expected):
        del each['wall_time_s']
    assert results == expected


def test_a_split_that_is_not_the_runs_is_named(run, tmp_path):
    ids = (run / 'labeled_ids.txt').read_text().splitlines(keepends=True)
    (run / 'labeled_ids.txt').write_text(''.join(ids[1:]))
    with pytest.raises(SystemExit) as caught:
        predict.main(['predict', f'--workdir={run}', '--unlabeled', f'--output={tmp_path}/a.csv'])
    assert f'{run}/labeled_ids.txt is not the split that this run was trained on' in caught.value.code
    assert os.listdir(tmp_path) == ['run']


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run):
    for name in ('config.json', 'results.json', 'class_names.json', 'labeled_ids.txt'):
        (run / name).unlink()
        os.mkfifo(run / name)
    files = Workdir(run)
    for read in (files.read_config, files.read_results, files.read_class_names, files.read_labeled_ids):
        with pytest.raises(UserError, match=r'is damaged .it is no file'):
            read()


def test_a_run_that_trained_nothing_may_be_begun_anew(tmp_path):
    """Killed for memory before its first step, it takes a corrected batch_size, and another split."""
    first, second = tiny_config(data__num_validation=20), tiny_config(batch_size=4, data__num_labels=20)
    run = make_run(tmp_path / 'run', first)
    shutil.rmtree(run / 'checkpoints')
    (run / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir(parents=True)
    files = Workdir(run)
    files.check(second)
    assert files.begun_split(second) is None
    assert len(files.begun_split(first).validation) == 20
    files.create(second, ['0001'])
    assert files.read_config()['batch_size'] == 4
    assert files.begun_split(second) == (['0001'], [])
    (run / 'checkpoints' / '2').mkdir()
    with pytest.raises(UserError, match=r'holds a run with another config'):
        files.check(first)


@contextlib.contextmanager
def unprivileged():
    """As a user without rights; root drops them for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize('locked', ['metrics/metrics', 'state/_METADATA', 'state', '.'])
def test_a_checkpoint_that_one_may_not_read_is_not_called_damaged(locked):
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        step = Path(folder, 'run', 'checkpoints', '4')
        for name in ('metrics/metrics', 'state/_METADATA'):
            (step / name).parent.mkdir(parents=True, exist_ok=True)
            (step / name).write_text('{"error": 5.0}')
        mode = stat.S_IMODE((step / locked).stat().st_mode)
        check_readable(step.parent)
        (step / locked).chmod(0)
        with (
            unprivileged(),
            pytest.raises(UserError, match=r'Permission denied.; nothing was moved') as caught,
        ):
            check_readable(step.parent)
        assert str(step / locked) in str(caught.value)
        (step / locked).chmod(mode)


@pytest.mark.parametrize(
    'error', [OSError(24, 'Too many open files'), MemoryError(), ValueError('PERMISSION_DENIED: /a/b: open')]
)
def test_what_is_wrong_with_the_machine_damages_no_checkpoint(error):
    class Manager:
        directory = Path('/run/checkpoints')

        def all_steps(self):
            return [4, 8]

        def restore(self, *_, **__):
            raise error

    import jax.numpy as jnp
    import optax

    from metasemi_jax.train_step import TrainState

    state = TrainState.create(
        {'params': {'w': jnp.ones(2)}, 'batch_stats': {}}, optax.sgd(0.1), with_ema=False
    )
    with pytest.raises(UserError, match=r'/8 cannot be read now .*nothing was moved or lost'):
        restore_newest(Manager(), state)


def test_every_command_is_in_the_fuzz(finished):
    folder, run, copy = finished
    assert {*commands(folder, run)} >= {'main', 'resume', 'predict', 'export', 'report', 'visualize', 'sweep'}
    restore(folder, copy)
