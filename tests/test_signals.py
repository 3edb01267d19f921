"""Signals at every moment of a command's life; what they do to training is in test_faults.py."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from metasemi_jax.command import signals
from small_runs import ROOT, assert_same_state, main_command, read_log, read_state, tiny_flags

LASTING = {'total_steps': 100_000, 'checkpoint_every': 100_000, 'eval_every': 100_000, 'batch_size': 16}


# The tests may run under nohup, or in the background of a shell, which ignores SIGINT for them. Not as the
# preexec_fn of Popen: a process that runs JAX must not fork.
WITH_USUAL_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def start(*command, **options):
    return subprocess.Popen(
        [sys.executable, '-c', WITH_USUAL_SIGNALS, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def assert_ended_by(process, number):
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, f'{signal.Signals(number).name}: {signals.LINE}\n')


# Where an exception of a handler is swallowed, and where the main thread runs no handler at all.
MOMENTS = {
    'a callback of the collector': 'gc.callbacks.append(lambda *_: [ready(), time.sleep(60)]); gc.collect()',
    'an except clause that takes all': """
try:
    ready(); time.sleep(60)
except BaseException:
    time.sleep(60)
""",
    'C code': 'import ctypes; ready(); ctypes.CDLL(None).pause(); ctypes.CDLL(None).pause(); time.sleep(60)',
}
PREPARE = """
import gc, sys, threading, time
from metasemi_jax.command.start import begin
begin()
def ready():
    print('ready', flush=True)
"""


@pytest.mark.parametrize('number', signals.ENDING)
def test_every_signal_ends_a_command_with_its_number_and_one_line(number):
    process = start(sys.executable, '-c', PREPARE + 'ready(); time.sleep(60)')
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
    assert_ended_by(process, number)


@pytest.mark.parametrize('moment', MOMENTS)
def test_no_moment_swallows_it(moment):
    process = start(sys.executable, '-c', PREPARE + MOMENTS[moment])
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert_ended_by(process, signal.SIGINT)


def test_nohup_is_respected():
    process = start('nohup', sys.executable, '-c', PREPARE + 'ready(); sys.stdin.readline()', stdin=-1)
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGHUP)
    assert process.communicate('go on\n', timeout=60)[1] == ''
    assert process.returncode == 0


def test_what_was_not_finished_is_removed(tmp_path):
    unfinished = tmp_path / '.out.csv.tmp'
    code = f"""
from metasemi_jax.command.signals import removed_at_end
with removed_at_end({str(unfinished)!r}):
    open({str(unfinished)!r}, 'w').close()
    ready(); time.sleep(60)
"""
    process = start(sys.executable, '-c', PREPARE + code)
    assert process.stdout.readline() == 'ready\n'
    assert unfinished.exists()
    process.send_signal(signal.SIGTERM)
    assert_ended_by(process, signal.SIGTERM)
    assert not unfinished.exists()


def test_a_forked_child_does_not_end_its_parent():
    code = """
import os, signal
read, write = os.pipe()
child = os.fork()
if not child:
    os.write(write, b'x')
    time.sleep(60)
os.read(read, 1)
os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""
    process = start(sys.executable, '-c', PREPARE + code)
    assert process.communicate(timeout=60)[0] == f'{int(signal.SIGTERM)}\n'
    assert process.returncode == 0


def test_a_failure_ends_though_a_thread_does_not():
    """A thread of a library waits for ever, as Orbax's for one that could not be started."""
    code = """
from metasemi_jax.cli import run_command
from metasemi_jax import cli
from absl import flags
cli.PATIENCE_S = 1
def main():
    threading.Thread(target=threading.Event().wait).start()
    raise RuntimeError("can't start new thread")
run_command(main, ['x'], values=flags.FlagValues())
"""
    process = start(sys.executable, '-c', PREPARE + code)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count('\n')) == (1, 1)
    assert errors.startswith('error: the system starts no more threads; raise the limit')


COMMANDS = ('main', 'predict', 'export', 'visualize', 'report', 'sweep', 'torch_import')


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_while_it_imports(command, tmp_path):
    program = ['main.py'] if command == 'main' else ['-m', f'metasemi_jax.{command}']
    process = start(sys.executable, '-X', 'importtime', *program, f'--workdir={tmp_path}/run')
    next(line for line in process.stderr if 'absl.flags' in line)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if not line.startswith('import time:')] == [
        f'SIGINT: {signals.LINE}'
    ]


def assert_ended_well(process, number):
    """One line, on stderr or, where it has saved, on stdout; returns whether it has."""
    stdout, errors = process.communicate(timeout=120)
    saved = f'{number.name}: saved after step ' in stdout
    assert process.returncode == 128 + number, (process.returncode, stdout, errors)
    assert errors == ('' if saved else f'{number.name}: {signals.LINE}\n')
    return saved


def test_while_it_loads(tmp_path):
    """The imports are above, a closed terminal is below; compiling and training are in test_faults.py."""
    process = start(*main_command(*tiny_flags(**LASTING), f'--workdir={tmp_path}/run'))
    next(line for line in process.stdout if 'labeled' in line)
    process.send_signal(signal.SIGHUP)
    assert not assert_ended_well(process, signal.SIGHUP)


# In a process of its own, since a process that runs JAX must not fork.
TERMINAL = """
import os, pty, select, sys
child, terminal = pty.fork()
if not child:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b''
while b'step 20/' not in seen:
    assert select.select([terminal], [], [], 100)[0], seen
    seen += os.read(terminal, 4096)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_closed_terminal_saves(tmp_path):
    """The kernel sends SIGHUP when the other end of the terminal goes, and every write to it fails."""
    flags = tiny_flags(**LASTING | {'log_every': 1})
    process = start(sys.executable, '-c', TERMINAL, *main_command(*flags, f'--workdir={tmp_path}/run'))
    assert process.communicate(timeout=120) == ('', '')
    assert process.returncode == 128 + signal.SIGHUP
    assert read_state(tmp_path / 'run')["['step']"] >= 20


def thirty_moments(folder, seconds=15.0, count=30):
    """SIGINT, SIGTERM and SIGHUP at random moments of a start, the same workdir again and again.

    `python tests/test_signals.py FOLDER` does it in full; the run that was signalled ends with the same bits
    as an undisturbed one.
    """
    moments = random.Random(0)
    flags = tiny_flags(total_steps=12_000, log_every=100, eval_every=1000, checkpoint_every=200)
    subprocess.run(main_command(*flags, f'--workdir={folder}/undisturbed'), check=True)
    saved, finished = 0, 0
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * (count // 3):
        at = moments.uniform(0, seconds)
        process = start(*main_command(*flags, f'--workdir={folder}/run'))
        time.sleep(at)
        process.send_signal(number)
        stdout, errors = process.communicate(timeout=120)
        report = f'{number.name} at {at:.2f} s: exit code {process.returncode}'
        print(report, '|', errors.strip() or stdout.strip().splitlines()[-1], flush=True)
        if (folder / 'run' / 'results.json').exists():
            finished += 1  # before the signal came
            continue
        assert process.returncode == 128 + number, report + errors
        assert len(errors.splitlines()) + stdout.count(': saved after step') == 1, errors
        saved += 'saved after step' in stdout
    subprocess.run(main_command(*flags, f'--workdir={folder}/run'), check=True)
    assert_same_state(read_state(folder / 'undisturbed'), read_state(folder / 'run'))
    assert read_log(folder / 'undisturbed') == read_log(folder / 'run')
    print(json.dumps({'signals': count, 'saved': saved, 'finished before': finished, 'same bits': True}))


if __name__ == '__main__':
    from pathlib import Path

    thirty_moments(Path(sys.argv[1]).absolute())
