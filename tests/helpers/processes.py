"""What a started program has come to."""

import time

import pytest


def wait_for(process, seen):
    """The first line that it prints for which `seen` is true."""
    for line in process.stdout:
        if seen(line):
            return line
    return pytest.fail(f'ended too soon: {process.stderr.read()}')


def wait_for_step(process, step):
    """Until a run has printed a log line of `step` or a later one."""
    wait_for(process, lambda line: line.startswith('step ') and int(line[5:].split('/')[0]) >= step)


def wait_until(condition, what, seconds=100):
    """Until `condition()`; `what` says of it where that does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
