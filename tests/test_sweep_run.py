"""What `metasemi_jax.sweep` starts; tests/test_sweep.py has it at work."""

import subprocess
import sys
import threading
import time

from metasemi_jax.sweep import run as sweep_run
from metasemi_jax.workdir import Workdir
from small_runs import ROOT


def test_it_waits_for_a_run_that_still_saves_there(tmp_path, monkeypatch):
    locked, release = threading.Event(), threading.Event()

    def hold():
        with Workdir(tmp_path).lock():
            locked.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(10)
    # It gives up in the end; the run itself then says that the folder is taken.
    monkeypatch.setattr(sweep_run, 'PATIENCE_S', 0.3)
    started = time.monotonic()
    sweep_run._wait_for(Workdir(tmp_path))
    assert 0.3 <= time.monotonic() - started < 5
    monkeypatch.setattr(sweep_run, 'PATIENCE_S', 60)
    threading.Timer(0.3, release.set).start()
    sweep_run._wait_for(Workdir(tmp_path))
    assert release.is_set()
    holder.join()
    with Workdir(tmp_path).lock():  # it left the folder free
        pass


def test_without_a_sweep(tmp_path):
    command = [sys.executable, '-m', 'metasemi_jax.sweep.run', str(tmp_path / 'run')]
    process = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert (process.returncode, process.stdout) == (1, '')
    assert process.stderr == (
        'error: the sweep that started this run is gone; python -m metasemi_jax.sweep starts runs\n'
    )
    assert list(tmp_path.iterdir()) == []
