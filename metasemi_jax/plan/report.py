"""A plan as JSON, and as lines for people."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from metasemi_jax.plan import hlo
from metasemi_jax.plan.estimate import Estimate, sent_bytes
from metasemi_jax.plan.machines import GIB, GPU_SHARE, Topology
from metasemi_jax.plan.search import Room
from metasemi_jax.plan.step_program import StepProgram
from metasemi_jax.progress import duration

NAMES = {
    'f32': 'float32',
    'bf16': 'bfloat16',
    'f16': 'float16',
    'f64': 'float64',
    's32': 'int32',
    'pred': 'bool',
}
ASSUMPTION = (
    'peak rates of the data sheets; the lower time hides the two faster of arithmetic, memory and network '
    'behind the slowest, the upper one hides none; without evaluations, checkpoints, compiling and waiting '
    'for images'
)
FLOPS_BY = {
    'compiler': 'FLOPs as the compiler counts them',
    'text': 'FLOPs of convolutions and matrix products',
}


class Plan(NamedTuple):
    """Result of `make_plan`."""

    topology: Topology
    program: StepProgram
    compile_s: float
    estimate: Estimate | None  # None where the compiler itself refuses the program
    wanted: int | None  # bytes of one device that it would take, where the compiler refuses it and says so
    room: Room | None = None  # of smaller batches, where this one does not fit

    @property
    def fits(self) -> bool:
        """Whether the step fits the machine."""
        return self.estimate is not None and self.estimate.memory.fits


def as_json(plan: Plan) -> dict[str, Any]:
    """Numbers in bytes, seconds and FLOPs, of one device unless the name says otherwise."""
    topology, program, found = plan.topology, plan.program, plan.estimate
    config = program.config
    chip = topology.chip
    result = {
        'compiled_not_run': True,
        'topology': topology.name,
        'device': chip.title,
        'num_devices': topology.size,
        'config': {
            'data': config.data.name,
            'model': config.model.name,
            'method': config.method.name,
            'dtype': program.dtype,
            'total_steps': config.total_steps,
            'num_params': program.num_params,
        },
        'batch_size': config.batch_size,
        'unlabeled_batch_size': config.unlabeled_ratio * config.batch_size,
        'batch_size_per_device': config.batch_size // topology.size,
        'steps_per_call': program.steps_per_call,
        'compile_s': round(plan.compile_s, 1),
        'fits': plan.fits,
        'memory_available': chip.memory,
        'memory_wanted': found.memory.total if found else plan.wanted,
        'largest_batch_size': config.batch_size if plan.fits else plan.room and plan.room.fits,
        'assumption': ASSUMPTION,
        'rates': {
            'flops': chip.flops if program.dtype == 'bfloat16' else chip.flops_float32,
            'memory': chip.memory_rate,
            'network': chip.link_rate,
        },
        'times_serial_on_a_real_one': _slower(plan),
        **dict.fromkeys(('memory', 'step', 'sent', 'run_s')),
    }
    return result if found is None else result | _estimated(found, config.total_steps)


def _estimated(found: Estimate, total_steps: int) -> dict[str, Any]:
    memory, time = found.memory, found.time
    largest_first = sorted(found.sent.items(), key=lambda item: -item[1] * item[0][1].bytes)
    return {
        'memory': {'state': memory.state, 'data': memory.data, 'activations': memory.activations},
        'step': {
            'flops': found.flops,
            'bytes': found.bytes,
            'bytes_of_compiler': found.bytes_of_compiler,
            'flops_by': found.flops_by,
            'sent_bytes': sent_bytes(found.sent),
            'compute_s': time.compute,
            'memory_s': time.memory,
            'network_s': time.network,
            'bound_by': time.bound_by,
            'least_s': time.least,
            'serial_s': time.serial,
        },
        'sent': [
            {
                'operation': operation,
                'dtype': NAMES.get(array.dtype, array.dtype),
                'shape': list(array.shape),
                'count': count,
            }
            for (operation, array), count in largest_first
        ],
        'run_s': [total_steps * time.least, total_steps * time.serial],
    }


def lines(plan: Plan) -> Iterator[str]:
    """The plan as lines for people, the verdict first."""
    topology, program, found = plan.topology, plan.program, plan.estimate
    config = program.config
    share = config.batch_size // topology.size
    each = f'{share} + {config.unlabeled_ratio * share}'
    yield (
        f'{config.method.name} on {config.data.name}: {config.model.name}, {program.num_params:,} '
        f'parameters, {config.batch_size} + {config.unlabeled_ratio * config.batch_size} images a step, '
        f'{program.dtype}, on {topology.name}: {topology.size} × {topology.chip.title}, {each} images each'
    )
    yield 'compiled, not run: this needs no such device\n'
    yield _verdict(plan)
    if found is None:
        yield f'compiling took {plan.compile_s:.0f} s'
        return
    memory, time = found.memory, found.time
    yield (
        f'  state {_gib(memory.state)}, data {_gib(memory.data)}, activations and program '
        f'{_gib(memory.activations)}, of {_gib(memory.available)}{_share(topology)}'
    )
    steps = config.total_steps
    yield (
        f'a step takes {_ms(time.least)} to {_ms(time.serial)} ms, bound by {time.bound_by}; all '
        f'{steps:,} steps {_long(steps * time.least)} to {_long(steps * time.serial)}'
    )
    yield f'  {ASSUMPTION}'
    if slower := _slower(plan):
        least, most = slower
        yield (
            f'  recipes run on one real {topology.chip.title} took {least:g} to {most:g} times the upper '
            f'time; that would be {_ms(least * time.serial)} to {_ms(most * time.serial)} ms here'
        )
    yield (
        f'a device and step: {found.flops / 1e12:.4g} TFLOP ({_ms(time.compute)} ms), '
        f'{found.bytes / 1e9:.4g} GB of its memory read and written ({_ms(time.memory)} ms)'
    )
    yield f'  {FLOPS_BY[found.flops_by]}; bytes as the compiled program names them, if no cache keeps any'
    if found.bytes_of_compiler:
        yield (
            f'  with the memory on the chip the compiler counts {found.bytes_of_compiler / 1e9:.4g} GB; a '
            'hundred times as much would be a sign of gathers'
        )
    if topology.size > 1:
        yield f'sent between devices: {sent_bytes(found.sent) / 1e6:.4g} MB a step ({_ms(time.network)} ms)'
        yield from _sent(found.sent)
    calls = f', {program.steps_per_call} steps a call' if program.steps_per_call > 1 else ''
    yield f'compiling took {plan.compile_s:.0f} s{calls}'


def _slower(plan: Plan) -> tuple[float, float] | None:
    # Known of bfloat16 alone.
    return plan.topology.chip.slower if plan.program.dtype == 'bfloat16' else None


def _verdict(plan: Plan) -> str:
    wanted = plan.estimate.memory.total if plan.estimate else plan.wanted
    room = _gib(plan.topology.chip.memory)
    if plan.fits:
        return f'it fits: {_gib(wanted)} of {room} a device'
    much = f'{_gib(wanted)}, and a device has {room}' if wanted else f'more than the {room} of a device'
    largest, too_large = plan.room
    if largest:
        others = f' of those tried; {too_large} does not' if too_large else ''
        return f'it does not fit: it wants {much}; the largest batch_size that fits is {largest}{others}'
    return (
        f'it does not fit: it wants {much}; nor does the smallest batch that was tried ({too_large}): '
        'use more devices, or a smaller model or image_size'
    )


def _share(topology: Topology) -> str:
    if topology.chip.platform != 'gpu':
        return ''
    return (
        f' (the {GPU_SHARE:.0%} of the device that JAX reserves; XLA_PYTHON_CLIENT_MEM_FRACTION changes it)'
    )


def _sent(sent: Counter[tuple[str, hlo.Array]]) -> Iterator[str]:
    groups: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for (operation, array), count in sent.items():
        key = operation, array.dtype
        groups[key] += count
        sizes[key] += count * array.bytes
    for (operation, dtype), size in sizes.most_common():
        count = groups[operation, dtype]
        arrays = f'{count} array{"s" * (count > 1)} in {NAMES.get(dtype, dtype)}'
        yield f'  {operation} of {arrays}, {size / 1e6:.4g} MB'


def _gib(size: int) -> str:
    return f'{size / GIB:.3g} GiB' if size >= GIB / 100 else f'{size / 2**20:.3g} MiB'


def _ms(seconds: float) -> str:
    return f'{1e3 * seconds:.3g}'


def _long(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f'{seconds:.2g} s'
