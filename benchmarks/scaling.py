"""How the time of a step grows with the batch, the width, the classes and the devices.

    python -m benchmarks.scaling --config=configs/svhn.py --config.batch_size=16
    python -m benchmarks.scaling --config=configs/svhn.py --devices=1,2,4,8

On random pixels of the data set's shape; one table for each quantity, everything else as the config says. The
rows of a table take turns. With more devices the same batch is shared by more of them; `--devices` makes that
table alone, on a CPU of virtual devices, which share its cores.
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

from benchmarks.turns import images_of, sizes_of, spread, take_turns, whole_numbers
from metasemi_jax.cli import run_command
from metasemi_jax.distributed.sharding import check_batch_size, make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.models import MODELS

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

    asked = whole_numbers('devices', _DEVICES.value or [])
    if asked:
        # Before the first look at the devices, which starts them; platforms with real ones ignore it.
        jax.config.update('jax_num_cpu_devices', max(asked))

    from metasemi_jax.compilation_cache import enable_compilation_cache

    enable_compilation_cache()
    config, there = _CONFIG.value, jax.device_count()
    if max(asked, default=1) > there:
        raise UserError(f'--devices={max(asked)}: there are {there} here')
    tables = {'devices': _device_points(config, asked)} if asked else _tables(config, there)
    print(f'{jax.devices()[0].device_kind}, {there} device(s), jax {jax.__version__}')
    print(f'{config.method.name}, {config.model.name}, {sizes_of(config)}\n')
    for name, points in tables.items():
        if points:
            print(f'{_table(name, points)}\n', flush=True)


def _tables(config: Any, devices_there: int) -> dict[str, list[Point]]:
    def changed(field: str, value: int) -> Any:
        copied = copy.deepcopy(config)
        copied.update_from_flattened_dict({field: value})
        return copied

    size = config.batch_size
    batch_sizes = _BATCH_SIZES.value or dict.fromkeys([max(1, size // 4), max(1, size // 2), size, 2 * size])
    widths = _WIDTHS.value if 'width' in MODELS[config.model.name].__dataclass_fields__ else []
    return {
        'batch size': [
            Point(n, changed('batch_size', n)) for n in whole_numbers('batch_sizes', list(batch_sizes))
        ],
        'width': [Point(n, changed('model.width', n)) for n in whole_numbers('widths', widths)],
        'classes': [Point(n, config, num_classes=n) for n in whole_numbers('classes', _CLASSES.value)],
        'devices': _device_points(config, _powers_of_two(devices_there)) if devices_there > 1 else [],
    }


def _device_points(config: Any, numbers: Sequence[int]) -> list[Point]:
    for number in numbers:
        check_batch_size(config.batch_size, number)
    return [Point(number, config, num_devices=number) for number in numbers]


def _powers_of_two(largest: int) -> list[int]:
    return list(itertools.takewhile(lambda n: n <= largest, (2**i for i in itertools.count())))


def _table(name: str, points: Sequence[Point]) -> str:
    times = take_turns([_run(point) for point in points], rounds=_ROUNDS.value, seconds=_SECONDS.value)
    first = statistics.median(times[0])
    lines = [f'| {name} | ms a step: median (least, most) | images/s | × the first row |', f'|{"---|" * 4}']
    for point, seconds in zip(points, times, strict=True):
        median = statistics.median(seconds)
        rate = images_of(point.config) / median
        lines.append(f'| {point.value:,} | {spread(seconds)} | {rate:,.0f} | {median / first:.2f} |')
    return '\n'.join(lines)


def _run(point: Point) -> Callable[[int], int]:
    import jax

    from benchmarks.random_job import make_job
    from metasemi_jax.training.multi_step import default_steps_per_call

    count = default_steps_per_call()
    mesh = make_mesh(jax.devices()[: point.num_devices])
    job = make_job(point.config, mesh, max_steps=count, num_classes=point.num_classes)
    return job.runner(job.run_steps)


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'svhn.py')
