"""Kills, signals and closed pipes, against an undisturbed run."""

import random
import signal
import subprocess
import time

import pytest
from runs import assert_same_state, main_command, read_log, read_state, run_main, tiny_flags

# About ten seconds of steps, with a save nearly always under way.
STEPS = {'total_steps': 2000, 'log_every': 20, 'eval_every': 100, 'checkpoint_every': 20, 'batch_size': 16}


def start(workdir, **overrides):
    return subprocess.Popen(
        main_command(*tiny_flags(**(STEPS | overrides)), f'--workdir={workdir}'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_training(process):
    for line in process.stdout:
        if line.startswith('first step'):
            return
    pytest.fail(f'never trained: {process.stderr.read()}')


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path):
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    assert run_main(*tiny_flags(**STEPS), f'--workdir={undisturbed}').returncode == 0
    moments = random.Random(0)
    for kill in range(10):
        process = start(killed)
        if kill < 7:
            wait_for_training(process)
            time.sleep(moments.uniform(0, 1.5))
        else:
            time.sleep(moments.uniform(0, 6))  # while it starts, compiles, restores
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
    for line in process.stdout:
        if 'continuing' in line:
            assert line.endswith(f'continuing after step {step}\n')
            break
    else:
        pytest.fail('did not continue')
    process.kill()
    process.communicate()


def test_a_closed_pipe_ends_in_one_line(tmp_path):
    process = start(tmp_path, total_steps=100_000)
    wait_for_training(process)
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read().startswith('error: nobody reads the output any more')
    process.stderr.close()
