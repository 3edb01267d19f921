"""Accelerators by their data sheets, and topologies by the names that users give."""

import difflib
import math
import re
from typing import NamedTuple

from metasemi_jax.errors import UserError

GIB = 2**30
# Share of a GPU's memory that JAX reserves by default (XLA_PYTHON_CLIENT_MEM_FRACTION).
GPU_SHARE = 0.75


class Chip(NamedTuple):
    """One device by its public description; rates are peaks."""

    title: str
    platform: str  # 'tpu' or 'gpu'
    memory: int  # bytes that a program may use
    memory_rate: float  # bytes a second
    flops: float  # a second, of bfloat16 products that are summed in float32
    flops_float32: float  # a second, of products that keep all digits of float32
    link_rate: float  # bytes a second that leave the device for its neighbours
    axes: int  # of a topology's name: 2 of '2x2'
    # Least and most of: time of a step on a real one, in bfloat16 / `Time.serial` (docs/performance.md).
    slower: tuple[float, float] | None = None


def _tpu(title: str, gib: float, gb: float, tflops: float, link: float, axes: int) -> Chip:
    # Precision.HIGHEST makes six bfloat16 products of one in float32.
    return Chip(title, 'tpu', int(gib * GIB), gb * 1e9, tflops * 1e12, tflops * 1e12 / 6, link * 1e9, axes)


def _gpu(
    title: str,
    memory: int,
    gb: float,
    tflops: float,
    tflops_float32: float,
    link: float,
    slower: tuple[float, float] | None = None,
) -> Chip:
    usable = int(GPU_SHARE * memory)
    return Chip(title, 'gpu', usable, gb * 1e9, tflops * 1e12, tflops_float32 * 1e12, link * 1e9, 1, slower)


# TPUs: cloud.google.com/tpu/docs/system-architecture; links in one direction; the memory is what the compiler
# gives a program. GPUs: NVIDIA's data sheets, SXM, dense products, NVLink in one direction; memory and its
# rate are those of `gpu_targets`.
CHIPS = {
    'v4': _tpu('TPU v4', 30.75, 1228, 275, 300, 3),
    'v5e': _tpu('TPU v5e', 15.75, 819, 197, 200, 2),
    'v5p': _tpu('TPU v5p', 95.74, 2765, 459, 600, 3),
    'v6e': _tpu('TPU v6e', 31.25, 1640, 918, 400, 2),
    'a100': _gpu('A100 80 GB', 85_100_068_864, 2039, 312, 19.5, 300),
    'h100': _gpu('H100 80 GB', 84_942_979_072, 3352, 989, 67, 450, slower=(1.4, 2.1)),
    'h200': _gpu('H200 141 GB', 151_397_597_184, 4800, 989, 67, 450),
    'b200': _gpu('B200 192 GB', 191_514_411_008, 7672, 2250, 75, 900),
}
MOST_CHIPS = 65_536
FORM = 'write CHIP:SIZE, as v5e:16x16, v5p:2x2x1, h100:8'


class Topology(NamedTuple):
    """Devices of one kind that are wired together."""

    name: str  # 'v5e:16x16', 'h100:8'
    chip: Chip
    shape: tuple[int, ...]  # (16, 16); (8,)

    @property
    def size(self) -> int:
        """How many devices there are."""
        return math.prod(self.shape)


def parse_topology(text: str) -> Topology:
    """The topology that `text` names.

    Raises:
      UserError: an unknown chip, or a size that it cannot have.
    """
    kind, _, size = text.lower().partition(':')
    if kind not in CHIPS:
        close = difflib.get_close_matches(kind, CHIPS, n=1)
        hint = f' did you mean {close[0]}?' if close else ''
        raise UserError(f"--topology={text}: '{kind}' is none of {', '.join(CHIPS)};{hint} {FORM}")
    chip = CHIPS[kind]
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', size):
        raise UserError(f'--topology={text}: {f"size {size!r}" if size else "no size"}; {FORM}')
    shape = tuple(map(int, size.split('x')))
    if len(shape) != chip.axes:
        example = {1: '8', 2: '2x2', 3: '2x2x1'}[chip.axes]
        raise UserError(
            f'--topology={text}: {chip.title} is sized by {chip.axes} number{"s" * (chip.axes > 1)}; write '
            f'{kind}:{example}'
        )
    if math.prod(shape) > MOST_CHIPS:
        raise UserError(f'--topology={text}: {math.prod(shape):,} devices; use at most {MOST_CHIPS:,}')
    return Topology(f'{kind}:{size}', chip, shape)
