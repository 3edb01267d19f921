import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from metasemi_jax.command.signals import ENDING, LINE
from metasemi_jax.training.preemption import stop_on_signals

WAITER = """
import signal, sys, time
from metasemi_jax.command.signals import ENDING, LINE
from metasemi_jax.training.preemption import stop_on_signals
# A shell ignores SIGINT for what it puts into the background, nohup SIGHUP; the tests may run so.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with stop_on_signals() as stop:
    stop.listen()
    print('ready', flush=True)
    while not stop:
        time.sleep(0.01)
    print(stop.name, flush=True)
    if sys.argv[1] == 'hang':
        time.sleep(60)
sys.exit(stop.exit_code)
"""


def start(mode):
    process = subprocess.Popen(
        [sys.executable, '-c', WAITER, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_is_noted_and_gives_the_exit_code(number, code):
    process = start('leave')
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert out == f'{number.name}\n'
    assert process.returncode == code


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize('second', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_program_that_hangs(first, second):
    process = start('hang')
    process.send_signal(first)
    assert process.stdout.readline() == f'{first.name}\n'
    process.send_signal(second)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -second
    assert ('KeyboardInterrupt' in errors) == (second == signal.SIGINT)


main_thread_only = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason='only the main thread has handlers'
)


def handlers():
    return [signal.getsignal(number) for number in ENDING]


@main_thread_only
def test_handlers_are_put_back():
    before = handlers()
    with stop_on_signals() as stop:
        assert handlers() == before
        stop.listen()
        assert signal.getsignal(signal.SIGTERM) != before[0]
        assert not stop
    assert handlers() == before
    with contextlib.suppress(RuntimeError), stop_on_signals() as stop:
        stop.listen()
        raise RuntimeError
    assert handlers() == before


@main_thread_only
def test_in_this_process():
    with stop_on_signals() as stop:
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert (stop.name, stop.exit_code) == ('SIGTERM', 143)


def test_outside_the_main_thread_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with stop_on_signals() as stop:
            stop.listen()
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


IN_A_COMMAND = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from metasemi_jax.command.start import begin
begin()
from metasemi_jax.training.preemption import stop_on_signals
with stop_on_signals() as stop:
    stop.listen()
    print('ready', flush=True)
    while not stop:
        time.sleep(0.01)
    print(stop.name, flush=True)
    time.sleep(60)
"""


def test_in_a_command_the_second_signal_ends_it_with_one_line():
    """Whatever the main thread is at, and whichever the second one is."""
    process = subprocess.Popen(
        [sys.executable, '-c', IN_A_COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == 'SIGHUP\n'
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, f'SIGINT: {LINE}\n')
