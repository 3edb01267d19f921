"""Kills, signals and closed pipes, against an undisturbed run; what a run does in this process is cheaper."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from metasemi_jax.command.signals import LINE
from processes import wait_for, wait_for_step
from small_runs import (
    ROOT,
    assert_same_state,
    main_command,
    read_log,
    read_state,
    run_here,
    tiny_flags,
)

# A save is nearly always under way.
STEPS = {'total_steps': 400, 'log_every': 20, 'eval_every': 100, 'checkpoint_every': 20, 'batch_size': 16}
STEPS |= {'model__name': 'conv_small'}


def start(workdir, environment=None, **overrides):
    return subprocess.Popen(
        main_command(*tiny_flags(**(STEPS | overrides)), f'--workdir={workdir}'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('finished')
    assert run_here(*tiny_flags(), f'--workdir={workdir}').returncode == 0
    return workdir


def test_kills_change_no_bit(tmp_path):
    """Two while it starts, compiles or restores, three at random steps, a moment behind a log line.

    Signals, and kills of a sweep, of several processes and of other methods, are in other files.
    """
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    assert run_here(*tiny_flags(**STEPS), f'--workdir={undisturbed}').returncode == 0
    moments = random.Random(0)
    # Far enough from the end for a fast machine to be still at work when the kill comes.
    steps = [0, *sorted(moments.randrange(20, 300) for _ in range(3)), 0]
    for step in steps:
        process = start(killed)
        if step == 0:
            time.sleep(moments.uniform(1, 4))
        else:
            wait_for_step(process, step)
            time.sleep(moments.uniform(0, 0.1))
        assert process.poll() is None, 'the run ended before it could be killed'
        process.kill()
        process.communicate()
    saved = sorted(int(path.name) for path in (killed / 'checkpoints').iterdir() if path.name.isdigit())
    assert 0 < saved[-1] < STEPS['total_steps']
    last = run_here(*tiny_flags(**STEPS), f'--workdir={killed}')
    assert last.returncode == 0, last.stderr
    assert 'continuing after step' in last.stdout
    assert_same_state(read_state(undisturbed), read_state(killed))
    assert read_log(undisturbed) == read_log(killed)


def test_a_signal_saves_and_the_run_continues(tmp_path):
    overrides = {'total_steps': 100_000, 'checkpoint_every': 100_000, 'eval_every': 100_000}
    step = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(tmp_path, **overrides)
        line = wait_for(process, lambda line: 'starting' in line or 'continuing' in line)
        assert line.endswith(f'continuing after step {step}\n' if step else ': starting\n')
        wait_for_step(process, step + 40)
        sent = time.monotonic()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - sent < 10
        assert process.returncode == 128 + number
        assert stderr == ''
        assert f'{number.name}: saved after step ' in stdout
        before, step = step, int(stdout.split('saved after step ')[1].split(';')[0])
        assert read_state(tmp_path)["['step']"] == step >= before + 40


@pytest.fixture(scope='module')
def training(tmp_path_factory):
    """A long run that trains, in a process, and its folder; the last test that uses it ends it."""
    workdir = tmp_path_factory.mktemp('training')
    process = start(workdir, total_steps=100_000)
    wait_for(process, lambda line: line.startswith('first step'))
    yield process, workdir
    process.kill()
    process.wait()


def test_a_second_run_in_one_workdir_is_refused(training):
    process, workdir = training
    second = run_here(*tiny_flags(**(STEPS | {'total_steps': 100_000})), f'--workdir={workdir}')
    assert (second.returncode, second.stdout) == (1, '')
    assert second.stderr.endswith('another run is in it; wait for its end, or name another folder\n')
    assert process.poll() is None


def test_a_closed_pipe_ends_in_one_line(training):
    process, _ = training
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
    assert (process.returncode, errors) == (128 + signal.SIGTERM, f'SIGTERM: {LINE}\n')
    assert not list((tmp_path / 'run' / 'checkpoints').iterdir())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('damage', ['cut', 'flipped'])
def test_a_damaged_newest_checkpoint_is_named_and_skipped(finished, tmp_path, damage):
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    (workdir / 'results.json').unlink()
    for path in (workdir / 'checkpoints' / '12' / 'state' / 'd').iterdir():
        path.write_bytes(path.read_bytes()[:100]) if damage == 'cut' else flip_a_bit(path)
    again = run_here(*tiny_flags(), f'--workdir={workdir}')
    assert again.returncode == 0, again.stderr
    assert again.stderr == ''
    lines = again.stdout.splitlines()
    aside = workdir / 'damaged_checkpoints' / '12.0'
    assert lines[1].startswith('the checkpoint of step 12 cannot be read (')
    assert lines[1].endswith(f'; it was moved to {aside}')
    assert lines[2] == f'{workdir}: continuing after step 8'
    assert (aside / 'state').is_dir()
    assert_same_state(read_state(workdir), read_state(finished))


def test_without_a_readable_checkpoint_nothing_begins_anew(finished, tmp_path):
    """Orbax lists no checkpoint whose metrics are damaged: all of them are laid aside, and none is left."""
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    (workdir / 'results.json').unlink()
    for path in (workdir / 'checkpoints').glob('*/metrics/metrics'):
        path.write_bytes(b'')
    for _ in range(2):
        again = run_here(*tiny_flags(), f'--workdir={workdir}')
        assert again.returncode == 1
        assert again.stderr.startswith(f'error: no checkpoint is left in {workdir / "checkpoints"}, and what')
        assert again.stderr.endswith('put back a good copy, or start again in a new --workdir\n')
        assert len(again.stderr.splitlines()) == 1
    assert {path.name for path in (workdir / 'damaged_checkpoints').iterdir()} >= {'8.0', '12.0'}
    assert not (workdir / 'results.json').exists()


def run_with_room(size, *flags):
    """`main.py`, unable to write a file longer than `size` bytes."""
    limited = (
        'import resource, runpy, sys\n'
        f'resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n'
        f'sys.argv = {main_command(*flags)[1:]}\n'
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    # JAX's cache is read alone: it could not be written either, and says so.
    read_only = {'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': str(2**40)}
    environment = os.environ | read_only | {'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, '-c', limited], capture_output=True, text=True, env=environment)


def test_a_log_that_cannot_be_written_ends_in_one_line(tmp_path):
    often = tiny_flags(log_every=1, eval_every=100, checkpoint_every=100, total_steps=100)
    full = run_with_room(6000, *often, f'--workdir={tmp_path}')
    assert full.returncode == 1
    assert full.stderr.startswith(
        'error: metrics.jsonl cannot be written (File too large); nothing was saved'
    )
    assert full.stderr.endswith('make room, and the same command goes on from it\n')
    assert len(full.stderr.splitlines()) == 1


def test_a_full_disk_names_what_is_whole_and_the_run_goes_on(finished, tmp_path):
    """Files longer than some limit fail here as they do on a full disk."""
    workdir = tmp_path / 'run'
    assert run_here(*tiny_flags(), f'--workdir={workdir}', '--config.total_steps=4').returncode == 0
    (workdir / 'results.json').unlink()
    config = json.loads((workdir / 'config.json').read_text())
    (workdir / 'config.json').write_text(json.dumps(config | {'total_steps': 12}))
    # Less than the arrays of a checkpoint take together, more than every other file.
    full = run_with_room(6000, *tiny_flags(), f'--workdir={workdir}')
    assert full.returncode == 1
    assert full.stderr.startswith(f'error: a checkpoint could not be written to {workdir / "checkpoints"} (')
    assert 'the last whole one is of step 4: make room there' in full.stderr
    assert len(full.stderr.splitlines()) == 1
    again = run_here(*tiny_flags(), f'--workdir={workdir}')
    assert again.returncode == 0, again.stderr
    assert 'continuing after step 4' in again.stdout
    assert_same_state(read_state(workdir), read_state(finished))
