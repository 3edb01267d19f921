"""What the training loop costs beside the bare step: data, logs, checkpoints, evaluation.

    python -m benchmarks.loop --config=configs/digits.py --steps=1000
    python -m benchmarks.loop --config=configs/svhn.py --config.batch_size=32 --steps=12 --config.log_every=4

The loop is `main.py`'s own, with the config's cadences of logs and checkpoints; it is timed from its first
log to its last, so that the start is left out, and so is the evaluation at the end. On the config's data, or,
where it needs a download, on random pixels of their shape. The rows take turns; each holds the median, least
and most of `--rounds`.
"""

import contextlib
import copy
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from benchmarks.turns import spread
from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment whose loop is timed.')
_STEPS = flags.DEFINE_integer('steps', 1000, 'Of each turn.', lower_bound=4)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Turns of each row.', lower_bound=1)


def main() -> None:
    from metasemi_jax.compilation_cache import enable_compilation_cache

    enable_compilation_cache()
    config = copy.deepcopy(_CONFIG.value)
    config.total_steps = _STEPS.value
    if _STEPS.value < 2 * config.log_every:
        raise UserError(f'--steps={_STEPS.value}: two logs are needed, and log_every={config.log_every}')
    with tempfile.TemporaryDirectory() as folder:
        _use_random_pixels(config, Path(folder))
        no_evaluation = copy.deepcopy(config)
        no_evaluation.eval_every = config.total_steps
        rows: dict[str, Callable[[], float]] = {
            'bare step': _bare_step(config, data=False),
            'with the data of each step': _bare_step(config, data=True),
            'the loop, without evaluation': lambda: _loop(no_evaluation, Path(folder)),
        }
        if config.eval_every < config.total_steps:
            rows['the loop'] = lambda: _loop(config, Path(folder))
        seconds = {name: [] for name in rows}
        for _ in range(_ROUNDS.value):
            for name, run in rows.items():
                seconds[name].append(run())
    print(_table(seconds))


def _use_random_pixels(config: Any, folder: Path) -> None:
    import numpy as np

    from benchmarks.random_job import FORMS

    if config.data.name not in FORMS or config.data.name == 'digits':
        return
    shape, num_classes, num_labeled, _ = FORMS[config.data.name]
    count = max(2 * num_labeled, 4096)
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(count) < num_labeled, np.arange(count) % num_classes, -1)
    arrays = {'x': rng.integers(0, 256, (count, *shape), dtype=np.uint8), 'y': labels}
    arrays |= {'x_test': arrays['x'][:1000], 'y_test': labels[:1000] % num_classes}
    np.savez(folder / 'random.npz', **arrays)
    config.data.name, config.data.path = 'own_images', str(folder / 'random.npz')
    config.data.num_labels = 0


def _bare_step(config: Any, *, data: bool) -> Callable[[], float]:
    """Seconds a step of calls that nothing interrupts; without `data` all take the same batch."""
    import jax

    from metasemi_jax.distributed.sharding import make_mesh, place, replicated
    from metasemi_jax.training.experiment import build_experiment
    from metasemi_jax.training.multi_step import default_steps_per_call, make_run_steps, place_host_batches

    mesh = make_mesh()
    experiment = build_experiment(config, mesh)
    pipeline, count = experiment.pipeline, config.steps_per_call or default_steps_per_call()
    if config.total_steps < 2 * count:
        raise UserError(f'--steps={config.total_steps}: a call does {count}, and two calls are needed')
    run_steps = make_run_steps(experiment.make_train_step(1.0), pipeline.to_batch, max_steps=count, mesh=mesh)
    everywhere = replicated(mesh)
    device_data, state = place(pipeline.device_data, everywhere), place(experiment.state, everywhere)
    key = jax.jit(jax.random.key, static_argnums=0, out_shardings=everywhere)(config.seed)
    batches = pipeline.host_batches(0)
    sent = place_host_batches(batches, count, count, mesh)

    def run() -> float:
        nonlocal state, sent
        previous = None
        for done in range(0, config.total_steps, count):
            if done == count:
                # The first call may compile.
                jax.block_until_ready(previous)
                start = time.perf_counter()
            if data:
                sent = place_host_batches(batches, count, count, mesh)
            state, sums = run_steps(state, device_data, *sent, key)
            jax.block_until_ready(previous)
            previous = sums
        jax.block_until_ready(sums)
        return (time.perf_counter() - start) / done

    return run


def _loop(config: Any, folder: Path) -> float:
    """Seconds a step of the real loop, between its first and its last log."""
    from metasemi_jax.training.loop import train_and_evaluate

    # What it tells people would bury the table.
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory(dir=folder) as workdir, _times_of_logs() as times, silence:
        train_and_evaluate(config, workdir)
    (first, start), *_, (last, end) = times
    return (end - start) / (last - first)


@contextlib.contextmanager
def _times_of_logs() -> Iterator[list[tuple[int, float]]]:
    """(step, time) of each log of training, as it is written."""
    from metasemi_jax.training.run_log import RunLog

    times, write = [], RunLog.write

    def timed(self: RunLog, step: int, scalars: dict[str, float]) -> None:
        write(self, step, scalars)
        if 'train/loss' in scalars:
            times.append((step, time.perf_counter()))

    RunLog.write = timed
    try:
        yield times
    finally:
        RunLog.write = write


def _table(seconds: dict[str, list[float]]) -> str:
    bare = statistics.median(next(iter(seconds.values())))
    lines = ['| | ms a step: median (least, most) | rate of the bare step |', '|---|---|---|']
    for name, values in seconds.items():
        median = statistics.median(values)
        lines.append(f'| {name} | {spread(values)} | {bare / median:.1%} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'digits.py')
