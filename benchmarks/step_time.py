"""How long a training step takes, what it is made of, and how far it is from the machine's best.

    python -m benchmarks.step_time --config=configs/svhn.py
    python -m benchmarks.step_time --config=configs/cifar10.py --config.method.name=fixmatch

On a CPU beside PyTorch, then on a GPU:

    python -m benchmarks.step_time --config.batch_size=32 --estimators=jvp --reference=torch
    python -m benchmarks.step_time --dtypes=bfloat16,float32 --steps_per_call=1,100 --reference=torch

On random pixels of the data set's shape. All variants take turns, so that what else the machine does meets
them alike; a row holds the median, least and most of `--rounds` turns.

TFLOP and GB are those of a step as XLA counts them, on a GPU as `metasemi plan` does, the bytes as if nothing
stayed in a cache. The roofline is the time that the larger of the two would take, at the rates of matrix
products and of memory of the same run.
"""

import copy
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from benchmarks.turns import images_of, sizes_of, spread, take_turns, whole_numbers
from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError
from metasemi_jax.progress import duration

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment whose step is timed.')
_ESTIMATORS = flags.DEFINE_list(
    'estimators', ['jvp', 'finite_difference', 'exact'], 'Of the meta-gradient, where the method has one.'
)
_DTYPES = flags.DEFINE_list('dtypes', None, "Of the computation; by default the config's.")
_STEPS = flags.DEFINE_list('steps_per_call', None, 'Numbers of steps in one call; by default as in training.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each variant.', lower_bound=1)
_SECONDS = flags.DEFINE_float('seconds', 2.0, 'Of each turn, about.')
_REFERENCE = flags.DEFINE_enum('reference', 'none', ['none', 'torch'], 'Rows for the same step in PyTorch.')


class Cost(NamedTuple):
    """What a compiled step takes, on all devices together."""

    flops: float
    bytes: float  # read and written, if nothing stays in a cache
    forward: float  # FLOPs of one evaluation forward pass of a batch
    memory: int  # bytes at most, of one device


class Variant(NamedTuple):
    """One row."""

    name: str
    dtype: str
    run: Callable[[int], int]  # at least so many steps, waited for; returns how many
    compile_s: float
    cost: Cost | None = None


class Machine(NamedTuple):
    """The best it does, measured in the same run."""

    flops: dict[str, float]  # a second, in matrix products, by dtype
    bytes: float  # a second, read and written


def main() -> None:
    import jax

    from metasemi_jax.distributed.sharding import make_mesh
    from metasemi_jax.training.multi_step import default_steps_per_call

    # Compile times are measured.
    jax.config.update('jax_enable_compilation_cache', False)
    config, mesh = _CONFIG.value, make_mesh()
    counts = whole_numbers('steps_per_call', _STEPS.value or [default_steps_per_call()])
    dtypes = _DTYPES.value or [config.dtype]
    print(f'{jax.devices()[0].device_kind}, {mesh.size} device(s), jax {jax.__version__}')
    print(f'{config.method.name}, {config.model.name}, {sizes_of(config)}\n')
    variants = [
        _ours(config, mesh, estimator, dtype, count)
        for estimator, dtype, count in itertools.product(_estimators(config), dtypes, counts)
    ]
    if not variants:
        raise UserError('--estimators and --dtypes must name one each, or more')
    if _REFERENCE.value == 'torch':
        variants += _torch_variants(config)
    times = take_turns([v.run for v in variants], rounds=_ROUNDS.value, seconds=_SECONDS.value)
    # Virtual devices share one machine.
    chips = 1 if jax.default_backend() == 'cpu' else mesh.size
    rates = {v.dtype: chips * _matmul_rate(v.dtype) for v in variants if v.cost}
    machine = Machine(rates, chips * _memory_rate())
    best = ', '.join(f'{rate / 1e12:.3g} TFLOP/s in {dtype}' for dtype, rate in rates.items())
    print(f'matrix products: {best}; memory: {machine.bytes / 1e9:.3g} GB/s\n')
    print(_table(variants, times, machine, config))


def _estimators(config: Any) -> list[str | None]:
    """Those asked for, or None where the method's targets do not move."""
    from metasemi_jax.methods import method_options

    meta = config.method.meta
    if meta is None:
        meta = method_options(config.method.name).get('meta', False)
    return _ESTIMATORS.value if meta else [None]


def _ours(config: Any, mesh: Any, estimator: str | None, dtype: str, count: int) -> Variant:
    from benchmarks.random_job import make_job

    config = copy.deepcopy(config)
    config.dtype = dtype
    if estimator:
        config.method.estimator = estimator
    job = make_job(config, mesh, max_steps=count)
    args = job.args(job.state, job.pipeline.host_batches(0))
    start = time.perf_counter()
    compiled = job.run_steps.lower(*args).compile()
    seconds = time.perf_counter() - start
    step_flops, step_bytes = _counted(compiled)
    memory = compiled.memory_analysis()
    return Variant(
        f'{estimator or config.method.name}, {count} step{"s" * (count > 1)} a call',
        job.dtype.name,
        job.runner(compiled),
        seconds,
        Cost(
            step_flops * mesh.size,
            step_bytes * mesh.size,
            _forward_flops(job, config.batch_size),
            memory.temp_size_in_bytes + memory.argument_size_in_bytes,
        ),
    )


def _forward_flops(job: Any, batch_size: int) -> float:
    import jax
    import jax.numpy as jnp

    images = jax.ShapeDtypeStruct((batch_size, *job.image_shape), jnp.float32)
    variables = {'params': job.state.params, 'batch_stats': job.state.batch_stats}
    forward = jax.jit(lambda variables, images: job.model.apply(variables, images, train=False))
    return _counted(forward.lower(jax.device_get(variables), images).compile())[0]


def _counted(compiled: Any) -> tuple[float, float]:
    """FLOPs and bytes of one device; of a loop the body counts once."""
    import jax

    from metasemi_jax.plan import hlo

    if jax.default_backend() == 'gpu':
        # XLA's own count leaves out what cuDNN and cuBLAS do.
        program = hlo.parse(compiled.as_text())
        return hlo.flops(program), hlo.traffic(program)
    cost = compiled.cost_analysis()
    return cost['flops'], cost['bytes accessed']


def _torch_variants(config: Any) -> list[Variant]:
    try:
        import torch
    except ImportError as error:
        raise UserError('--reference=torch needs PyTorch: pip install torch') from error
    from benchmarks.random_job import FORMS
    from benchmarks.torch_reference import Step

    shape, num_classes, *_ = FORMS[config.data.name]
    if config.model.name != 'conv_large' or shape != (32, 32, 3) or config.method.name != 'metasemi':
        raise UserError(
            '--reference=torch: there is a PyTorch step for metasemi with conv_large on 32×32×3 pixels alone'
        )
    cuda = torch.cuda.is_available()
    # As PyTorch users set it for training.
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    common = {
        'batch_size': config.batch_size,
        'width': config.model.width or 128,
        'num_classes': num_classes,
        'device': 'cuda' if cuda else 'cpu',
        'gamma': config.method.mixup_gamma or 1.0,
    }
    kinds = {'PyTorch, eager': {}}
    if cuda:
        kinds |= {'PyTorch, compiled': {'compiled': True, 'amp': True, 'channels_last': True}}
    else:
        kinds |= {
            'PyTorch, eager, channels last': {'channels_last': True},
            'PyTorch, compiled, channels last': {'compiled': True, 'channels_last': True},
        }

    def variant(name: str, options: dict[str, bool]) -> Variant:
        step = Step(**common, **options)

        def run(steps: int) -> int:
            for _ in range(steps):
                step()
            if cuda:
                torch.cuda.synchronize()
            return steps

        start = time.perf_counter()
        run(1)
        dtype = 'bfloat16' if options.get('amp') else 'TF32' if cuda else 'float32'
        return Variant(name, dtype, run, time.perf_counter() - start)

    return [variant(name, options) for name, options in kinds.items()]


def _matmul_rate(dtype: str) -> float:
    """FLOP/s of one large square matrix product in `dtype`, the best of ten."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == 'cpu' else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    product = jax.jit(jnp.dot)
    return 2 * size**3 / _least_seconds(lambda: product(matrix, matrix))


def _memory_rate() -> float:
    """Bytes/s, read and written, of adding a number to a large array, the best of ten."""
    import jax
    import jax.numpy as jnp

    array = jnp.zeros(2**26 if jax.default_backend() == 'cpu' else 2**30, jnp.float32)

    # In place: fresh memory would be counted with the time that the system takes to find it.
    @functools.partial(jax.jit, donate_argnums=0)
    def add_one(x: jax.Array) -> jax.Array:
        return x + 1

    def again() -> jax.Array:
        nonlocal array
        array = add_one(array)
        return array

    return 2 * array.nbytes / _least_seconds(again)


def _least_seconds(function: Callable[[], Any]) -> float:
    import jax

    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _table(variants: list[Variant], times: list[list[float]], machine: Machine, config: Any) -> str:
    lines = [
        '| step | dtype | ms: median (least, most) | images/s | × the first row | compile s '
        f'| {config.total_steps:,} steps | forward passes | TFLOP | GB | TFLOP/s | of matrix rate '
        '| roofline ms | MB |',
        f'|{"---|" * 14}',
    ]
    first = statistics.median(times[0])
    for variant, seconds in zip(variants, times, strict=True):
        median = statistics.median(seconds)
        cells = [
            variant.name,
            variant.dtype,
            spread(seconds),
            f'{images_of(config) / median:,.0f}',
            f'{median / first:.2f}',
            f'{variant.compile_s:.1f}',
            duration(config.total_steps * median),
        ]
        if cost := variant.cost:
            rate, best = cost.flops / median, machine.flops[variant.dtype]
            cells += [
                f'{cost.flops / cost.forward:.2f}',
                f'{cost.flops / 1e12:.3g}',
                f'{cost.bytes / 1e9:.3g}',
                f'{rate / 1e12:.3g}',
                f'{rate / best:.0%}',
                f'{1e3 * max(cost.flops / best, cost.bytes / machine.bytes):.4g}',
                f'{cost.memory / 1e6:,.0f}',
            ]
        else:
            cells += [''] * 7
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'svhn.py')
