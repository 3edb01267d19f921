"""Several processes as one run: on this machine, with the commands that users type."""

import os
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from metasemi_jax.distributed.multi_host import join_processes
from metasemi_jax.errors import UserError
from processes import wait_for_step
from small_runs import main_command, read_log, run_here, tiny_flags

RUN = {'total_steps': 12, 'data__num_validation': 10}
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


def free_port():
    with socket.socket() as listener:
        listener.bind(('localhost', 0))
        return listener.getsockname()[1]


def start_two(workdir, *, second_flags=(), **overrides):
    """Two processes with two devices each; the second may differ."""
    environment = os.environ.copy()
    environment['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=2'
    address = f'--coordinator=localhost:{free_port()}'
    return [
        subprocess.Popen(
            main_command(
                *tiny_flags(**overrides), f'--workdir={workdir}', *more,
                address, '--num_processes=2', f'--process_id={i}',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i, more in enumerate([(), second_flags])
    ]  # fmt: skip


def finish(processes):
    outputs = [process.communicate(timeout=200) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in outputs]


@pytest.fixture(scope='module')
def by_one(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('one')
    run = run_here(*tiny_flags(**RUN), f'--workdir={workdir}')
    assert run.returncode == 0, run.stderr
    return workdir


@pytest.fixture(scope='module')
def by_two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('two')
    outputs = finish(start_two(workdir, **RUN))
    assert '4 × cpu in 2 processes' in outputs[0]
    # One process speaks; Gloo says its own from C++.
    assert [line for line in outputs[1].splitlines() if 'Gloo' not in line and 'peer ranks' not in line] == []
    return workdir


def assert_close_logs(first, second):
    first, second = read_log(first), read_log(second)
    assert len(first) == len(second) > 5
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_to_the_same_losses_as_one(by_one, by_two):
    assert_close_logs(by_one, by_two)
    assert not [path for path in by_two.rglob('*') if 'tmp' in path.name]


@pytest.mark.slow
def test_a_checkpoint_goes_from_two_processes_to_one_and_back(by_one, by_two):
    """Each run goes on from its step 8, in the other number of processes, and ends where it ended."""
    for workdir, other in ((by_two, by_one), (by_one, by_two)):
        (workdir / 'results.json').unlink()
        subprocess.run(['rm', '-r', workdir / 'checkpoints' / '12'], check=True)
        if workdir == by_two:
            run = run_here(*tiny_flags(**RUN), f'--workdir={workdir}')
            assert run.returncode == 0, run.stderr
            output = run.stdout
        else:
            output = finish(start_two(workdir, **RUN))[0]
        assert 'continuing after step 8' in output
        assert_close_logs(workdir, other)


def assert_one_is_lost(processes, victim):
    """Kill one of two; the other says so and ends."""
    processes[victim].kill()
    killed = time.monotonic()
    processes[victim].communicate()
    _, errors = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert processes[1 - victim].returncode != 0
    assert 'another process was lost' in errors or 'another task died' in errors, errors


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_continue(tmp_path):
    """One run through the loss of the second process, a signal to one of them, and the loss of the first."""
    processes = start_two(tmp_path, **LONG)
    wait_for_step(processes[0], 10)
    assert_one_is_lost(processes, 1)
    saved = max(int(path.name) for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdecimal())
    processes = start_two(tmp_path, **LONG)
    wait_for_step(processes[0], saved + 5)
    # To the one that does not speak; both stop after the same step.
    processes[1].send_signal(signal.SIGINT)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    stopped = re.search(r'SIGTERM: saved after step ([\d,]+);', outputs[0])[1].replace(',', '')
    processes = start_two(tmp_path, **LONG)
    wait_for_step(processes[0], int(stopped) + 5)
    assert_one_is_lost(processes, 0)


@pytest.mark.slow
def test_processes_of_different_settings_are_refused(tmp_path):
    processes = start_two(tmp_path / 'folder', second_flags=['--config.batch_size=12'], **RUN)
    errors = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    for error in errors:
        assert 'error: process 1 and process 0 do not have the same settings; start all' in error
    assert not (tmp_path / 'folder').exists()


@pytest.mark.slow
def test_what_one_process_refuses_ends_both(tmp_path):
    """The second cannot use its folder; the first says so too, and writes nothing."""
    (tmp_path / 'file').touch()
    processes = start_two(tmp_path / 'folder', second_flags=[f'--workdir={tmp_path}/file'], **RUN)
    errors = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert 'error: process 1 cannot go on; its own message says why' in errors[0]
    assert 'file is a file; name a folder' in errors[1]
    assert not (tmp_path / 'folder').exists()
