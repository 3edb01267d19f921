"""What a compiled step needs and takes at best, from the compiler's counts and the device's peak rates."""

import re
from collections import Counter
from typing import Any, NamedTuple

from metasemi_jax.plan import hlo
from metasemi_jax.plan.machines import Chip, Topology


class Memory(NamedTuple):
    """Bytes of one device."""

    state: int  # parameters, statistics, optimizer, averages, the method's own
    data: int  # training images, host batches and evaluation images, padding included
    activations: int  # temporary arrays and the program itself
    available: int

    @property
    def total(self) -> int:
        """Peak of the step."""
        return self.state + self.data + self.activations

    @property
    def fits(self) -> bool:
        """Whether the device has room."""
        return self.total <= self.available


class Time(NamedTuple):
    """Seconds of one step at peak rates."""

    compute: float
    memory: float
    network: float

    @property
    def least(self) -> float:
        """If the slowest of the three hides the others (roofline)."""
        return max(self)

    @property
    def serial(self) -> float:
        """If none hides another."""
        return sum(self)

    @property
    def bound_by(self) -> str:
        """The slowest."""
        return ('arithmetic', 'memory', 'network')[self.index(max(self))]


class Estimate(NamedTuple):
    """One device's share of a step."""

    memory: Memory
    flops: float
    bytes: float  # of the device's memory, read and written
    bytes_of_compiler: float | None  # its own count, the memory on a TPU's chip included; GPUs' make none
    sent: Counter[tuple[str, hlo.Array]]
    time: Time
    flops_by: str  # 'compiler' or 'text', whose count they are; bytes are counted from the text


def estimate(compiled: Any, topology: Topology, *, state: int, evaluation: int, dtype: str) -> Estimate:
    """Memory and time of a compiled step.

    Args:
      compiled: jax.stages.Compiled.
      state: bytes of the state.
      evaluation: bytes of the images to evaluate with, which stay on the device beside the step.
    """
    program = hlo.parse(compiled.as_text())
    counted = compiled.cost_analysis()
    flops, flops_by = (counted['flops'], 'compiler') if counted else (hlo.flops(program), 'text')
    # The compiler's 'bytes accessed' are more: those of the memory on a TPU's chip are among them.
    traffic, sent = hlo.traffic(program), hlo.sent(program)
    return Estimate(
        memory_of(compiled.memory_analysis(), topology.chip, state=state, evaluation=evaluation),
        flops,
        traffic,
        counted['bytes accessed'] if counted else None,
        sent,
        roofline(topology, flops=flops, traffic=traffic, sent=sent_bytes(sent), dtype=dtype),
        flops_by,
    )


def memory_of(analysis: Any, chip: Chip, *, state: int, evaluation: int) -> Memory:
    """The memory of a compiled step, from its `memory_analysis()`."""
    # The state that comes out lies where the one that went in lay.
    fresh = max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    return Memory(
        state,
        max(0, analysis.argument_size_in_bytes - state) + evaluation,
        analysis.temp_size_in_bytes + fresh + analysis.generated_code_size_in_bytes,
        chip.memory,
    )


def sent_bytes(sent: Counter[tuple[str, hlo.Array]]) -> int:
    """Bytes of all arrays that are sent in a step, each once."""
    return sum(count * array.bytes for (_, array), count in sent.items())


def roofline(topology: Topology, *, flops: float, traffic: float, sent: float, dtype: str) -> Time:
    """Seconds of a step at the peak rates of `topology`.

    Args:
      flops, traffic: operations, and bytes read and written, of one device.
      sent: bytes of the arrays that are summed over the devices, which a ring moves 2(n-1)/n times.
    """
    chip, n = topology.chip, topology.size
    rate = chip.flops if dtype == 'bfloat16' else chip.flops_float32
    return Time(flops / rate, traffic / chip.memory_rate, 2 * (n - 1) / n * sent / chip.link_rate)


def needed_bytes(message: str) -> int | None:
    """Bytes that a TPU's compiler wanted, from its 'RESOURCE_EXHAUSTED'; None where it does not say."""
    found = re.search(r'(?:Used|temporaries \() ?([\d.]+)([KMGT])', message)
    return round(float(found[1]) * 1024 ** ('KMGT'.index(found[2]) + 1)) if found else None
