"""What RandAugment costs beside the training step that it is part of.

    python -m benchmarks.rand_augment --config=configs/cifar10.py:fixmatch
    python -m benchmarks.rand_augment --config=configs/cifar10.py:fixmatch --config.data.name=mnist \\
        --config.data.flip=False --config.model.name=conv_small

On random pixels of the data set's shape: the unlabeled images of a step through each variant, and a whole
step with the config's own. Processor seconds are those of all cores; they hardly depend on what else the
machine does. The instructions are those of XLA's optimised program (on CPU it reports
no code size).
"""

import functools
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import run_command

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment whose step is timed.')
_STEPS = flags.DEFINE_integer('steps', 2, 'Training steps to time, after one that warms up.', lower_bound=1)
_CALLS = flags.DEFINE_integer('calls', 20, 'Calls of RandAugment to time.', lower_bound=1)
INSTRUCTION = re.compile(r'^ +(ROOT )?%\S+ = ', re.MULTILINE)


class Row(NamedTuple):
    """One program; times are medians of its calls."""

    name: str
    wall: float
    processor: float
    compile_s: float
    instructions: int


def main() -> None:
    import jax

    from metasemi_jax.data.batches.rand_augment import VARIANTS
    from metasemi_jax.distributed.sharding import make_mesh

    # Compile times are measured.
    jax.config.update('jax_enable_compilation_cache', False)
    config = _CONFIG.value
    print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
    step, shape = _step(config, make_mesh())
    rows = [_rand_augment(variant, shape) for variant in VARIANTS]
    print(f'{config.model.name}, {config.batch_size} + {shape[0]} images {shape[1:]}\n')
    print('| | ms | processor ms | of the step | compile s | instructions |')
    print('|---|---|---|---|---|---|')
    for row in (*rows, step):
        times = f'{1e3 * row.wall:.4g} | {1e3 * row.processor:.4g} | {row.processor / step.processor:.2%}'
        print(f'| {row.name} | {times} | {row.compile_s:.1f} | {row.instructions:,} |')


def _rand_augment(variant: str, shape: tuple[int, ...]) -> Row:
    import jax
    import numpy as np

    from metasemi_jax.data.batches.rand_augment import rand_augment

    images = jax.device_put(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    keys = iter(list(jax.random.split(jax.random.key(0), _CALLS.value + 1)))
    augment = jax.jit(functools.partial(rand_augment, variant=variant))
    compiled, seconds = _compiled(augment.lower(images, jax.random.key(0)))

    def run() -> jax.Array:
        return jax.block_until_ready(compiled(images, next(keys)))

    return _row(f'RandAugment, {variant}', run, _CALLS.value, compiled, seconds)


def _step(config: Any, mesh: Any) -> tuple[Row, tuple[int, ...]]:
    """The step, and the shape of its unlabeled images."""
    from benchmarks.random_job import make_job

    job = make_job(config, mesh)
    compiled, seconds = _compiled(job.run_steps.lower(*job.args(job.state, job.pipeline.host_batches(0))))
    run = job.runner(compiled)
    row = _row(f'{config.method.name} step', lambda: run(1), _STEPS.value, compiled, seconds)
    return row, (config.unlabeled_ratio * config.batch_size, *job.image_shape)


def _compiled(lowered: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = lowered.compile()
    return compiled, time.perf_counter() - start


def _row(name: str, run: Callable[[], Any], calls: int, compiled: Any, seconds: float) -> Row:
    run()
    wall, processor = [], []
    for _ in range(calls):
        starts = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - starts[0])
        processor.append(time.process_time() - starts[1])
    return Row(
        name,
        statistics.median(wall),
        statistics.median(processor),
        seconds,
        len(INSTRUCTION.findall(compiled.as_text())),
    )


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'cifar10.py')
