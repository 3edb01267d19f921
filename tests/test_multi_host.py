"""Several processes as one run: on this machine, with the commands that users type."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from metasemi_jax.distributed.multi_host import join_processes
from metasemi_jax.errors import UserError
from processes import wait_for, wait_for_step
from small_runs import ROOT, main_command, read_log, run_here, tiny_flags

RUN = {'total_steps': 12, 'data__num_validation': 10, 'model__name': 'conv_small'}
# Long enough to be interrupted.
LONG = {'total_steps': 100_000, 'eval_every': 1000, 'log_every': 5, 'checkpoint_every': 5}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((None, 2, 0), 'coordinator must be given too'),
        (('localhost:1', None, None), 'num_processes and process_id must be given too'),
        (('localhost', 2, 0), 'coordinator=localhost must be HOST:PORT'),
        (('localhost:1', 2, 2), 'process_id=2 must be at least 0 and less than 2'),
    ],
)
def test_flags_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        join_processes(*arguments)


def test_a_program_alone_joins_nobody(monkeypatch):
    # As in a batch script of SLURM, whose tasks `srun` has still to start.
    monkeypatch.setenv('SLURM_NTASKS', '8')
    join_processes(None, None, None)
    assert not jax.distributed.is_initialized()


def free_port():
    with socket.socket() as listener:
        listener.bind(('localhost', 0))
        return listener.getsockname()[1]


def start_two(command_of):
    """Two processes with two devices each; `command_of` the coordinator's address and the number of each."""
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    environment['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=2'
    address = f'localhost:{free_port()}'
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    return [subprocess.Popen(command_of(address, i), **pipes, text=True, env=environment) for i in range(2)]


# `main.py`, which is not as patient with the other processes.
IMPATIENT = """
import runpy, sys
from metasemi_jax.distributed import multi_host
multi_host.LOST_AFTER_SECONDS = 8
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def start_long(workdir):
    """Two processes of `main.py`, with the flags that users give."""
    flags = [*tiny_flags(**LONG), f'--workdir={workdir}', '--num_processes=2']
    python, *program = main_command(*flags)
    return start_two(
        lambda address, i: [
            python, '-c', IMPATIENT, *program, f'--coordinator={address}', f'--process_id={i}'
        ]
    )  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def by_one(folder):
    run = run_here(*tiny_flags(**RUN), f'--workdir={folder}/one')
    assert run.returncode == 0, run.stderr
    return folder / 'one'


def as_after_step_8(workdir, copy):
    """A copy of a finished run without its end."""
    shutil.copytree(workdir, copy)
    (copy / 'results.json').unlink()
    shutil.rmtree(copy / 'checkpoints' / '12')
    return copy


@pytest.fixture(scope='module')
def by_two(folder, by_one):
    """What two processes did one after another, {name: how it ended in each}; the last one was interrupted.

    'other_settings': the second has another batch size. 'other_folder': it cannot use its folder. 'two': a
    whole run. 'from_one': one that one process began. 'long': of one that is long, what they printed.
    """
    as_after_step_8(by_one, folder / 'from_one')
    (folder / 'file').touch()
    different = {'other_settings': ['--config.batch_size=12'], 'other_folder': [f'--workdir={folder}/file']}

    def flags_of(i):
        for name in ('other_settings', 'other_folder', 'two', 'from_one'):
            yield [*tiny_flags(**RUN), f'--workdir={folder}/{name}', *(different.get(name, ()) if i else ())]
        yield [*tiny_flags(**LONG), f'--workdir={folder}/long']

    program = ROOT / 'tests' / 'helpers' / 'runs_of_one_start.py'
    ended = [folder / f'ended_{i}.json' for i in range(2)]
    processes = start_two(lambda address, i: [sys.executable, program, address, str(i), ended[i]])
    for i, process in enumerate(processes):
        json.dump(list(flags_of(i)), process.stdin)
        process.stdin.close()
        process.stdin = None
    wait_for_step(processes[0], 10)
    # To the one that does not speak; both stop after the same step.
    processes[1].send_signal(signal.SIGINT)
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    names = ('other_settings', 'other_folder', 'two', 'from_one')
    how = zip(*(json.loads(path.read_text()) for path in ended), strict=True)
    return dict(zip(names, how, strict=True)) | {'long': outputs}


def assert_close_logs(first, second):
    first, second = read_log(first), read_log(second)
    assert len(first) == len(second) > 5
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_two_processes_train_to_the_same_losses_as_one(folder, by_one, by_two):
    assert [(run['code'], run['err']) for run in by_two['two']] == [(0, '')] * 2
    assert '4 × cpu in 2 processes' in by_two['two'][0]['out']
    assert_close_logs(by_one, folder / 'two')
    assert not [path for path in (folder / 'two').rglob('*') if 'tmp' in path.name]


def test_a_checkpoint_goes_from_two_processes_to_one_and_back(folder, by_one, by_two):
    """Each run goes on from its step 8, in the other number of processes, and ends where it ended."""
    from_two = as_after_step_8(folder / 'two', folder / 'from_two')
    run = run_here(*tiny_flags(**RUN), f'--workdir={from_two}')
    ended = [{'code': run.returncode, 'out': run.stdout}, *by_two['from_one']]
    assert [run['code'] for run in ended] == [0, 0, 0]
    for run in ended[:2]:
        assert 'continuing after step 8' in run['out']
    assert_close_logs(from_two, folder / 'two')
    assert_close_logs(folder / 'from_one', by_one)


def test_processes_of_different_settings_are_refused(folder, by_two):
    for run in by_two['other_settings']:
        assert run['code'] == 1
        assert 'error: process 1 and process 0 do not have the same settings; start all' in run['err']
    assert not (folder / 'other_settings').exists()


def test_what_one_process_refuses_ends_both(folder, by_two):
    """The second cannot use its folder; the first says so too, and writes nothing."""
    first, second = by_two['other_folder']
    assert (first['code'], second['code']) == (1, 1)
    assert 'error: process 1 cannot go on; its own message says why' in first['err']
    assert 'file is a file; name another folder' in second['err']
    assert not (folder / 'other_folder').exists()


def assert_one_is_lost(processes, victim):
    """Kill one of two; the other says so and ends."""
    processes[victim].kill()
    killed = time.monotonic()
    processes[victim].communicate()
    _, errors = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert processes[1 - victim].returncode != 0
    assert 'another process was lost' in errors or 'another task died' in errors, errors


def test_a_killed_process_ends_the_other_and_both_continue(folder, by_two):
    """One run through a signal to one process, the loss of the second, and that of the first."""
    # One process speaks; Gloo says its own from C++, in threads that cut each other's lines.
    said = by_two['long'][1][0].splitlines()
    ours = [line for line in said if not re.search(r'Gloo|peer ranks|^\W*\d*$', line)]
    assert ours == []
    said = by_two['long'][0][0]
    saved = int(re.search(r'SIGTERM: saved after step ([\d,]+);', said)[1].replace(',', ''))
    for victim in (1, 0):
        processes = start_long(folder / 'long')
        line = wait_for(processes[0], lambda line: 'continuing after step' in line)
        assert line.endswith(f'continuing after step {saved}\n')
        wait_for_step(processes[0], saved + 5)
        assert_one_is_lost(processes, victim)
        steps = [path.name for path in (folder / 'long' / 'checkpoints').iterdir()]
        saved = max(int(name) for name in steps if name.isdecimal())
