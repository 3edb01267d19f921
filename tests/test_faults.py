"""Kills, signals and closed pipes, against an undisturbed run."""

import os
import random
import signal
import subprocess
import time

import pytest

from small_runs import assert_same_state, main_command, read_log, read_state, run_main, tiny_flags

# A save is nearly always under way.
STEPS = {'total_steps': 1600, 'log_every': 20, 'eval_every': 100, 'checkpoint_every': 20, 'batch_size': 16}


def start(workdir, environment=None, **overrides):
    return subprocess.Popen(
        main_command(*tiny_flags(**(STEPS | overrides)), f'--workdir={workdir}'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(process, seen):
    for line in process.stdout:
        if seen(line):
            return line
    return pytest.fail(f'ended too soon: {process.stderr.read()}')


def wait_for_training(process):
    wait_for(process, lambda line: line.startswith('first step'))


def wait_for_step(process, step):
    wait_for(process, lambda line: line.startswith('step ') and int(line[5:].split('/')[0]) >= step)


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path):
    """Three while it starts, compiles or restores, seven at random steps, a moment behind a log line."""
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    assert run_main(*tiny_flags(**STEPS), f'--workdir={undisturbed}').returncode == 0
    moments = random.Random(0)
    # Far enough from the end for a fast machine to be still at work when the kill comes.
    steps = [0, 0, 0, *sorted(moments.randrange(20, 1200) for _ in range(7))]
    for step in steps:
        process = start(killed)
        if step == 0:
            time.sleep(moments.uniform(0.5, 3))
        else:
            wait_for_step(process, step)
            time.sleep(moments.uniform(0, 0.1))
        assert process.poll() is None, 'the run ended before it could be killed'
        process.kill()
        process.communicate()
    saved = sorted(int(path.name) for path in (killed / 'checkpoints').iterdir() if path.name.isdigit())
    assert 0 < saved[-1] < STEPS['total_steps']
    last = run_main(*tiny_flags(**STEPS), f'--workdir={killed}')
    assert last.returncode == 0, last.stderr
    assert 'continuing after step' in last.stdout
    assert_same_state(read_state(undisturbed), read_state(killed))
    assert read_log(undisturbed) == read_log(killed)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_continues(tmp_path, number):
    overrides = {'total_steps': 100_000, 'checkpoint_every': 100_000, 'eval_every': 100_000}
    process = start(tmp_path, **overrides)
    wait_for_training(process)
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - sent < 10
    assert process.returncode == 128 + number
    assert stderr == ''
    assert f'{number.name}: saved after step ' in stdout
    step = int(stdout.split('saved after step ')[1].split(';')[0])
    assert read_state(tmp_path)["['step']"] == step > 0

    process = start(tmp_path, **overrides)
    line = wait_for(process, lambda line: 'continuing' in line)
    assert line.endswith(f'continuing after step {step}\n')
    process.kill()
    process.communicate()


def test_a_closed_pipe_ends_in_one_line(tmp_path):
    process = start(tmp_path, total_steps=100_000)
    wait_for_training(process)
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read().startswith('error: nobody reads the output any more')
    process.stderr.close()


def test_a_signal_while_it_compiles_ends_it_at_once(tmp_path):
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cold')}
    process = start(tmp_path / 'run', environment)
    wait_for(process, lambda line: line.endswith('starting\n'))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert (process.returncode, errors) == (-signal.SIGTERM, '')
    assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


def test_a_second_run_in_one_workdir_is_refused(tmp_path):
    process = start(tmp_path, total_steps=100_000)
    wait_for_training(process)
    second = run_main(*tiny_flags(**(STEPS | {'total_steps': 100_000})), f'--workdir={tmp_path}')
    assert (second.returncode, second.stdout) == (1, '')
    assert second.stderr.endswith('another run is in it; wait for its end, or name another folder\n')
    assert process.poll() is None
    process.kill()
    process.communicate()
