"""Seeds × settings; in most tests the runs are `fake_sweep_run.py`."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from metasemi_jax.command.config_file import CONFIGS, find_config
from metasemi_jax.errors import UserError
from metasemi_jax.report import __main__ as report
from metasemi_jax.sweep import __main__ as sweep
from metasemi_jax.sweep.__main__ import plan, run_all
from metasemi_jax.sweep.folder import (
    check_record,
    run_folders,
    run_name,
    sweep_lock,
    swept_fields,
    write_record,
)
from metasemi_jax.sweep.grid import parse_grid
from metasemi_jax.training.preemption import StopRequest
from metasemi_jax.workdir.reading import read_json
from processes import wait_until
from small_runs import ROOT, contents, tiny_config, tiny_flags


def sweep_command(*arguments):
    return [sys.executable, '-m', 'metasemi_jax.sweep', *map(str, arguments)]


@pytest.fixture
def fake_runs(monkeypatch):
    monkeypatch.setattr(sweep, 'RUN', 'fake_sweep_run')
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent / 'helpers'))


def planned(folder, seeds, grid=''):
    return plan(tiny_config(), parse_grid(grid), seeds, folder)


def test_a_failure_does_not_stop_the_rest(tmp_path, fake_runs, capfd):
    runs = planned(tmp_path, [0, 1, 2, 3, 4])
    failed = run_all(runs, 1, StopRequest())
    assert failed == {
        '[2/5] seed=1': 'there is no such thing; use another',
        '[3/5] seed=2': 'killed by SIGKILL (out of memory?)',
        '[4/5] seed=3': 'ZeroDivisionError: in the middle',
    }
    assert [run.files.read_results() is None for run in runs] == [False, True, True, True, False]
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0] == '[1/5] seed=0: starts'
    assert lines[1].startswith('[1/5] seed=0: test error 10.00%, ')
    assert lines[3] == '[2/5] seed=1: failed: there is no such thing; use another'
    # What ran is left alone, what failed is tried again; its reason is of the new attempt.
    before = contents(runs[0].files.path)
    assert run_all(runs, 1, StopRequest()) == failed
    assert contents(runs[0].files.path) == before
    assert capfd.readouterr().out.startswith('2 of 5 runs are finished already\n')
    assert (runs[1].files.path / 'log.txt').read_text().count('first step') == 2


def test_two_at_once(tmp_path, fake_runs):
    runs = planned(tmp_path, [0, 4, 5, 6])
    assert run_all(runs, 2, StopRequest()) == {}
    spans = [[float((run.files.path / name).read_text()) for name in ('began', 'ended')] for run in runs]
    most = max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)
    assert most == 2


def test_a_stop_ends_the_runs_and_starts_no_other(tmp_path, fake_runs, capfd):
    runs = planned(tmp_path, [9, 0])
    stop = StopRequest()

    def stop_it():
        while not (runs[0].files.path / 'began').exists():
            time.sleep(0.01)
        stop.signal = signal.SIGINT

    threading.Thread(target=stop_it).start()
    assert run_all(runs, 1, stop) == {}
    assert capfd.readouterr().out.splitlines() == ['[1/2] seed=9: starts', '[1/2] seed=9: stopped']
    assert not runs[1].files.path.exists()


def test_the_plan_goes_seed_by_seed_through_the_settings(tmp_path):
    runs = planned(tmp_path, [3, 4], 'ablation')
    assert [run.config.seed for run in runs] == [3] * 4 + [4] * 4
    assert [(run.config.method.meta, run.config.method.mixup) for run in runs] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ] * 2
    assert runs[1].files.path == tmp_path / 'method.meta=True,method.mixup=False,seed=3'
    assert all(run.config.optimizer.milestones == (8, 10) for run in runs)
    assert list(tmp_path.iterdir()) == []


def test_names_of_folders_stay_in_their_folder():
    names = {run_name({'data.path': value}, 0) for value in ('/a/b', '..', 'a,seed=1', 'a%2Cseed=1', '')}
    assert len(names) == 5
    assert not any('/' in name for name in names)
    assert run_name({'optimizer.milestones': (8, 10), 'model.width': None}, 2) == (
        'optimizer.milestones=(8%2C 10),model.width=None,seed=2'
    )


def test_a_folder_keeps_to_one_sweep(tmp_path):
    config, fields = tiny_config(), ['method.meta', 'optimizer.lr']
    check_record(tmp_path, fields, config)
    write_record(tmp_path, fields, config)
    assert swept_fields(tmp_path) == fields
    # What is swept, the seed and where the data lie may change; more values of the same fields are welcome.
    check_record(tmp_path, fields[::-1], tiny_config(optimizer__lr=3.0, seed=8, data__data_dir='/x'))
    with pytest.raises(UserError, match=r'a sweep over method.meta, optimizer.lr, not over seeds alone'):
        check_record(tmp_path, [], config)
    with pytest.raises(UserError, match=r'another config \(batch_size: 8 there, 9 here\)'):
        check_record(tmp_path, fields, tiny_config(batch_size=9))
    (tmp_path / 'sweep.json').write_text('{}')
    with pytest.raises(UserError, match='damaged'):
        check_record(tmp_path, fields, config)


def test_a_run_of_other_settings_in_the_way_is_refused_before_anything_starts(tmp_path):
    first = planned(tmp_path, [0])[0]
    first.files.path.mkdir()
    (first.files.path / 'config.json').write_text(json.dumps(tiny_config(batch_size=9).to_dict()))
    (first.files.path / 'checkpoints' / '4').mkdir(parents=True)
    with pytest.raises(UserError, match='batch_size: 9 there, 8 here'):
        planned(tmp_path, [1, 0])
    with pytest.raises(UserError, match='holds a run; name another folder'):
        planned(first.files.path, [0])


# ml_collections loads a config file in a way that Python gives up.
loads_config = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')


@loads_config
@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ('--grid=optimizer.rl=1', "unknown config field 'optimizer.rl'"),
        ('--grid=optimizer.lr=0.1,-1', 'optimizer.lr=-1.0 must not be negative'),
        ('--seeds=0,x', "--seeds: seed='x' must be of the type int"),
        ('--seeds=-1', 'seed=-1 must be at least 0'),
        ('--jobs=0', 'jobs'),
        ('--config.nope=1', "unknown config field 'nope'"),
    ],
)
def test_bad_flags_end_in_one_line(tmp_path, flags, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [])
    with pytest.raises(SystemExit) as caught:
        sweep.main(['sweep', f'--workdir={tmp_path}/sweep', f'--config={ROOT}/configs/digits.py', flags])
    assert str(caught.value.code).startswith('error: ')
    assert message in caught.value.code
    assert '\n' not in caught.value.code
    assert capsys.readouterr().out == ''
    assert list(tmp_path.iterdir()) == []


@loads_config
def test_without_a_workdir(monkeypatch):
    monkeypatch.setattr(sys, 'argv', [])
    with pytest.raises(SystemExit) as caught:
        sweep.main(['sweep', f'--config={ROOT}/configs/digits.py'])
    assert 'error: --workdir is missing' in caught.value.code


def test_help_explains_every_flag():
    process = subprocess.run(sweep_command('--help'), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (0, '')
    for flag in ('config', 'grid', 'seeds', 'workdir', 'jobs'):
        assert f'--{flag}: ' in process.stdout
    assert 'XLA_PYTHON_CLIENT_PREALLOCATE=false' in process.stdout


@pytest.fixture
def start():
    """Start a command; what is still at work when the test ends, is killed."""
    processes = []

    def start(command):
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_killed_twice_it_goes_on_to_the_end(tmp_path, start, capsys):
    """SIGKILL of the sweep in the middle of a run, then Ctrl-C, then to the end; and the report of it."""
    folder = tmp_path / 'sweep'
    first_run = folder / 'method.meta=False,seed=3'
    steps = {'total_steps': 400, 'log_every': 100, 'eval_every': 400, 'checkpoint_every': 400}
    flags = [*tiny_flags(**steps), '--grid=method.meta=False,True', '--seeds=3', f'--workdir={folder}']

    def log():
        return (first_run / 'log.txt').read_text() if (first_run / 'log.txt').exists() else ''

    killed = start(sweep_command(*flags))
    wait_until(lambda: log().count('first step after') == 1, 'it trains')
    killed.send_signal(signal.SIGKILL)
    # At once: the run has noticed the death of its sweep, but may still be saving.
    interrupted = start(sweep_command(*flags))
    wait_until(lambda: log().count('first step after') == 2, 'it goes on')
    step = re.search(r'SIGTERM: saved after step (\d+);', log())[1]
    assert f'continuing after step {step}\n' in log()
    interrupted.send_signal(signal.SIGINT)
    out, errors = interrupted.communicate(timeout=100)
    assert (interrupted.returncode, errors) == (130, '')
    assert out.splitlines() == [
        '[1/2] method.meta=False,seed=3: continues',
        '[1/2] method.meta=False,seed=3: stopped',
        '0 of 2 runs are finished',
        'SIGINT: the runs at work have saved and stopped; the same command goes on',
    ]
    assert log().count('SIGTERM: saved after step') == 2
    assert run_folders(folder) == [first_run]

    last = start(sweep_command(*flags, '--jobs=2'))
    out, errors = last.communicate(timeout=300)
    assert (last.returncode, errors) == (0, '')
    assert out.splitlines()[-2] == '2 of 2 runs are finished'
    assert log().count('continuing after step') == 2
    runs = run_folders(folder)
    for meta, run in zip((False, True), runs, strict=True):
        config = tiny_config(**steps, method__meta=meta, seed=3)
        assert read_json(run / 'config.json') == json.loads(json.dumps(config.to_dict()))

    report.main(['report', str(folder)])
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[2:4]]
    errors = [read_json(run / 'results.json')['test_error_last'] for run in runs]
    assert [row[0] for row in rows] == ['mix-up only', 'MetaSemi']
    assert [(row[1], row[-1]) for row in rows] == [(f'{error:.2f}', f'{error:.1f}') for error in errors]


@loads_config
def test_a_second_sweep_over_a_folder_is_refused_at_its_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [])
    with sweep_lock(tmp_path), pytest.raises(SystemExit) as caught:
        sweep.main(['sweep', f'--workdir={tmp_path}', '--config=digits', '--seeds=0'])
    assert f'--workdir={tmp_path}: another sweep is at work in it; wait for its end' in caught.value.code
    assert capsys.readouterr().out == ''
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@loads_config
def test_configs_that_came_with_the_package_are_found_from_anywhere(tmp_path, monkeypatch):
    """As after `pip install .`; a file below the current folder goes before."""
    monkeypatch.chdir(tmp_path)
    for given in ([], ['--config=svhn'], ['--config=configs/cifar10.py'], ['--config=cifar100:fixmatch']):
        monkeypatch.setattr(sys, 'argv', [])
        with pytest.raises(SystemExit) as caught:
            sweep.main(['sweep', '--workdir=x', *given, '--grid=optimizer.rl=1'])
        assert "unknown config field 'optimizer.rl'" in caught.value.code
    assert {path.stem for path in CONFIGS.glob('*.py')} == {
        path.stem for path in (ROOT / 'configs').glob('*.py')
    }
    # `configs` is no package outside the repository.
    assert not [path for path in CONFIGS.glob('*.py') if 'from configs import' in path.read_text()]
    assert find_config('svhn') == CONFIGS / 'svhn.py'
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'svhn.py').touch()
    assert find_config('configs/svhn.py') == Path('configs/svhn.py')
    for name in ('elsewhere/svhn.py', 'nope', ''):
        with pytest.raises(UserError, match='or one of cifar10, cifar100, digits, '):
            find_config(name)
