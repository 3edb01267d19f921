"""One run of a sweep, in a process of its own, started by `metasemi_jax.sweep`.

    python -m metasemi_jax.sweep.run WORKDIR

Its stdin is a pipe from the sweep: first the config as one line of JSON, by value, since the file that it
came from may have changed meanwhile. Then the pipe stays open for as long as the run shall go on. It closes
when the sweep stops and, the system sees to that, when it dies of whatever signal: no run is left behind.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time

from ml_collections import ConfigDict

from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError

PATIENCE_S = 60


def main(workdir: str) -> None:
    """Train into `workdir` what stdin says, until stdin ends."""
    line = sys.stdin.readline()
    if not line:
        raise UserError('the sweep that started this run is gone; python -m metasemi_jax.sweep starts runs')
    config = ConfigDict(json.loads(line))
    threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.training.loop import train_and_evaluate
    from metasemi_jax.workdir import Workdir

    enable_compilation_cache()
    _wait_for(Workdir(workdir))
    train_and_evaluate(config, workdir, log_images=True)


def _stop_at_end_of_stdin() -> None:
    # With sys.stdin.read() Python would wait at exit for the lock of the stream.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for(files) -> None:
    """Wait while a run of a killed sweep finishes its last save in this folder."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(UserError), files.lock():
            return
        time.sleep(0.1)


if __name__ == '__main__':
    run_command(main, sys.argv, argument='workdir')
