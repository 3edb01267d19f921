"""What the machine or its environment lacks ends each command in one line."""

import io
import json
import os
import resource
import subprocess
import sys
import threading

import pytest

from metasemi_jax.command import machine
from metasemi_jax.errors import UserError
from small_runs import ROOT, main_command

COMMANDS = ('main', 'predict', 'export', 'visualize', 'report', 'sweep', 'torch_import')


# Not as the preexec_fn of Popen: a process that runs JAX must not fork.
LIMITED = """
import json, os, resource, sys
for kind, limits in json.loads(sys.argv[1]):
    resource.setrlimit(kind, limits)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_limited(command, limits, **options):
    return subprocess.run(
        [sys.executable, '-c', LIMITED, json.dumps(limits), *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        **options,
    )


def run(command, *argv, limits=(), **environment):
    module = [sys.executable, '-m', f'metasemi_jax.{command}']
    command = [*(main_command() if command == 'main' else module), *argv]
    return run_limited(
        command, [(kind, (value, value)) for kind, value in limits], env=os.environ | environment
    )


def assert_one_line(process, message):
    assert (process.returncode, process.stdout) == (1, '')
    assert process.stderr.startswith('error: ')
    assert process.stderr.count('\n') == 1
    assert message in process.stderr


@pytest.mark.parametrize('command', COMMANDS)
def test_limits_are_refused_before_anything_is_loaded(command):
    few = run(command, limits=[(resource.RLIMIT_NOFILE, 16)])
    assert_one_line(few, 'only 16 files may be open at a time; allow 64 or more (ulimit -n)')
    small = run(command, limits=[(resource.RLIMIT_AS, 1_500_000_000)])
    assert_one_line(small, 'ulimit -v allows 1.5 GB of addresses, and JAX takes ')
    without = run(command, JAX_DISABLE_JIT='1')
    assert_one_line(without, 'JAX_DISABLE_JIT=1 in the environment: the step exists compiled only')


def test_a_low_soft_limit_is_raised():
    code = (
        'import resource; from metasemi_jax.command.start import begin; begin(); '
        'print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])'
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    process = run_limited([sys.executable, '-c', code], [(resource.RLIMIT_NOFILE, (16, hard))])
    assert (process.stdout, process.stderr) == ('64\n', '')


def test_a_wrong_variable_is_named_though_the_command_dies_in_an_import(tmp_path):
    for command, *argv in (['main', f'--workdir={tmp_path}/run'], ['predict'], ['torch_import']):
        process = run(command, *argv, JAX_ENABLE_X64='foo')
        assert_one_line(process, "JAX_ENABLE_X64=foo in the environment: invalid truth value 'foo'")
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(tmp_path):
    for platform in ('cuda', 'nonsense'):
        process = run('main', f'--workdir={tmp_path}/run', JAX_PLATFORMS=platform)
        assert_one_line(process, f'JAX_PLATFORMS={platform} asks for a device that is not here')
        assert process.stderr.endswith('; unset JAX_PLATFORMS, or set it to cpu\n')
    assert list(tmp_path.iterdir()) == []


def test_threads_that_cannot_be_started(monkeypatch):
    start, count = threading.Thread.start, iter(range(9))

    def few(thread):
        if next(count, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, 'start', few)
    with pytest.raises(UserError, match=r'^the system starts only 9 more threads, and JAX needs about'):
        machine.check_machine()
    assert threading.active_count() == before


class FakeJaxError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (RuntimeError("can't start new thread"), 'the system starts no more threads'),
        (MemoryError(), 'the machine has not enough memory; use a smaller batch_size or model, or raise'),
        (MemoryError('Unable to allocate 59.6 GiB'), 'not enough memory (Unable to allocate 59.6 GiB)'),
        (ImportError('x.so: failed to map segment from shared object'), 'the machine has not enough memory'),
        (FakeJaxError('RESOURCE_EXHAUSTED: 1 byte'), 'the device has not enough memory (RESOURCE_EXHAUSTED'),
        (FloatingPointError('invalid value (nan)'), 'JAX_DEBUG_NANS=1 in the environment: invalid value'),
        (ValueError('unequal shapes'), ''),
        (FakeJaxError('INTERNAL: a fault'), ''),
    ],
)
def test_blame(monkeypatch, error, message):
    monkeypatch.setenv('JAX_DEBUG_NANS', '1')
    line = machine.blame(error)
    assert message in line
    assert bool(line) == bool(message)
    assert '\n' not in line


def test_streams_of_any_encoding(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding='utf-8')
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(sys, 'stderr', utf8)
    machine.speak_any_encoding()
    for each in (stream, utf8):
        each.write('8×8, 4.1 ± 2.7%, 日')
        each.flush()
    assert stream.buffer.getvalue() == rb'8x8, 4.1 +- 2.7%, \u65e5'
    assert utf8.buffer.getvalue() == '8×8, 4.1 ± 2.7%, 日'.encode()


def test_help_in_ascii():
    process = run('main', '--help', LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
    assert (process.returncode, process.stderr) == (0, '')
    assert 'method.mixup_gamma=1.0' in process.stdout
