"""How the time of a step grows with the batch, the width, the classes and the devices.

    python -m benchmarks.scaling --config=configs/svhn.py --config.batch_size=16
    python -m benchmarks.scaling --config=configs/svhn.py --devices=1,2,4,8

On random pixels of the data set's shape; one table for each quantity, everything else as the config says. The
rows of a table take turns. With more devices the same batch is shared by more of them. Where there are fewer
than asked for, on a CPU, they are virtual ones, which share its cores.
"""

import copy
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from benchmarks.turns import spread, take_turns
from metasemi_jax.command import run_command
from metasemi_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment whose step is timed.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', None, "By default a quarter to twice the config's.")
_WIDTHS = flags.DEFINE_list('widths', ['32', '64', '128'], 'Of models that have a width.')
_CLASSES = flags.DEFINE_list('classes', ['10', '100', '1000'], 'Numbers of classes.')
_DEVICES = flags.DEFINE_list(
    'devices', None, 'Numbers of devices; by default 1, 2, 4, ... of those there are.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Turns of each row.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 2.0, 'Of each turn, about.')


class Point(NamedTuple):
    """What one row measures."""

    value: int
    config: Any
    num_classes: int | None = None  # None: as many as the data set has
    num_devices: int = 1


def main() -> None:
    import jax

    config = copy.deepcopy(_CONFIG.value)
    asked = _numbers('devices', _DEVICES.value or [])
    # Before the first look at the devices, which starts them; other platforms ignore it.
    jax.config.update('jax_num_cpu_devices', max(asked, default=1))

    from metasemi_jax.compilation_cache import enable_compilation_cache

    enable_compilation_cache()
    there = jax.device_count()
    if max(asked, default=1) > there:
        raise UserError(f'--devices={max(asked)}: there are {there} here')
    print(f'{jax.devices()[0].device_kind}, {there} device(s), jax {jax.__version__}')
    print(f'{config.model.name}, {config.batch_size} + {config.batch_size} images\n')
    for name, points in _tables(config, asked or _powers_of_two(there)).items():
        if len(points) > 1:
            print(f'{_table(name, points)}\n', flush=True)


def _tables(config: Any, devices: Sequence[int]) -> dict[str, list[Point]]:
    def changed(**values: int) -> Any:
        copied = copy.deepcopy(config)
        copied.update_from_flattened_dict(values)
        return copied

    size = config.batch_size
    batch_sizes = _numbers(
        'batch_sizes', _BATCH_SIZES.value or [max(1, size // 4), size // 2 or 1, size, 2 * size]
    )
    has_width = config.model.name in ('conv_large', 'conv_small')
    return {
        'batch size': [Point(n, changed(batch_size=n)) for n in dict.fromkeys(batch_sizes)],
        'width': [
            Point(n, changed(**{'model.width': n})) for n in _numbers('widths', _WIDTHS.value) if has_width
        ],
        'classes': [Point(n, config, num_classes=n) for n in _numbers('classes', _CLASSES.value)],
        'devices': [Point(n, config, num_devices=n) for n in devices],
    }


def _numbers(flag: str, values: Sequence[Any]) -> list[int]:
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise UserError(f'--{flag}={",".join(map(str, values))}: positive whole numbers are needed')
    return numbers


def _powers_of_two(largest: int) -> list[int]:
    return list(itertools.takewhile(lambda n: n <= largest, (2**i for i in itertools.count())))


def _table(name: str, points: Sequence[Point]) -> str:
    times = take_turns([_run(point) for point in points], rounds=_ROUNDS.value, seconds=_SECONDS.value)
    first = statistics.median(times[0])
    lines = [f'| {name} | ms a step: median (least, most) | images/s | × the first row |', f'|{"---|" * 4}']
    for point, seconds in zip(points, times, strict=True):
        median = statistics.median(seconds)
        rate = 2 * point.config.batch_size / median
        lines.append(f'| {point.value:,} | {spread(seconds)} | {rate:,.0f} | {median / first:.2f} |')
    return '\n'.join(lines)


def _run(point: Point) -> Callable[[int], int]:
    import jax

    from benchmarks.random_job import make_job
    from metasemi_jax.multi_step import default_steps_per_call
    from metasemi_jax.sharding import make_mesh

    count = default_steps_per_call()
    mesh = make_mesh(jax.devices()[: point.num_devices])
    job = make_job(point.config, mesh, max_steps=count, num_classes=point.num_classes)
    return job.runner(job.run_steps)


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'svhn.py')
