"""Whether a long run grows slower or larger: rate and memory of `main.py`, thousand by thousand steps.

    python -m benchmarks.long_run --config=configs/digits.py --steps=20000

The program runs as a user would start it, with the config's cadences, and is watched from outside, twice a
second. The rate leaves evaluations and checkpoints out, as `metrics.jsonl` does; the wall time has them in,
and begins with the first log. The memory is that of the process that trains.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError

_CONFIG = flags.DEFINE_string('config', 'configs/digits.py', 'The experiment.')
_STEPS = flags.DEFINE_integer('steps', 20_000, 'Of the run.', lower_bound=2000)
_WINDOW = flags.DEFINE_integer('window', 1000, 'Steps that each row sums up.', lower_bound=1)
_EVERY_S = 0.5


class Look(NamedTuple):
    """What is seen from outside at one moment."""

    step: int
    time: float
    memory: int  # resident bytes


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, 'main.py', f'--config={_CONFIG.value}', f'--workdir={folder}/run']
        command.append(f'--config.total_steps={_STEPS.value}')
        print(' '.join(command), flush=True)
        metrics = Path(folder, 'run', 'metrics.jsonl')
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            looks = _watch(process, metrics)
        finally:
            process.kill()
            process.wait()
        print(_table(looks, _rates(metrics)))


def _watch(process: subprocess.Popen, metrics: Path) -> list[Look]:
    """Look every half second until the run ends."""
    status = Path(f'/proc/{process.pid}/status')
    looks, step, read = [], 0, 0
    while process.poll() is None:
        if metrics.exists():
            with metrics.open() as lines:
                lines.seek(read)
                # The last line may be half written.
                whole = lines.read().rpartition('\n')[0]
            if whole:
                read += len(whole.encode()) + 1
                step = json.loads(whole.splitlines()[-1])['step']
        try:
            resident = next(line for line in status.read_text().splitlines() if line.startswith('VmRSS'))
        except (OSError, StopIteration):
            # It has just ended.
            break
        looks.append(Look(step, time.perf_counter(), 1024 * int(resident.split()[1])))
        time.sleep(_EVERY_S)
    if process.wait() != 0:
        raise UserError(f'the run ended with exit code {process.returncode}; its own message is above')
    return looks


def _rates(metrics: Path) -> dict[int, float]:
    """step -> throughput over the steps before it, images a second."""
    logs = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {log['step']: log['images_per_second'] for log in logs if 'images_per_second' in log}


def _table(looks: Sequence[Look], rates: dict[int, float]) -> str:
    # Until the first log it starts and compiles.
    looks = [look for look in looks if look.step > 0]
    lines = ['| steps | images/s, median | wall time, s | memory, MB |', '|---|---|---|---|']
    for start in range(0, _STEPS.value, _WINDOW.value):
        end = min(start + _WINDOW.value, _STEPS.value)
        inside = [look for look in looks if start <= look.step < end]
        after = [look for look in looks if look.step >= end]
        within = [rate for step, rate in rates.items() if start < step <= end]
        if not inside or not within:
            continue
        seconds = (after or inside[-1:])[0].time - inside[0].time
        memory = max(look.memory for look in inside) / 1e6
        lines.append(
            f'| {start:,} to {end:,} | {statistics.median(within):,.0f} | {seconds:.1f} | {memory:,.0f} |'
        )
    half = _STEPS.value // 2
    halves = [
        statistics.median(rate for step, rate in rates.items() if low < step <= low + half)
        for low in (0, half)
    ]
    lines.append(f'\nsecond half at {halves[1] / halves[0]:.1%} of the rate of the first')
    return '\n'.join(lines)


if __name__ == '__main__':
    run_command(main, sys.argv)
