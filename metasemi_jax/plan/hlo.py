"""Counts FLOPs, bytes, and arrays sent between devices in the text of a compiled program.

Every count is of one device. The body of a loop counts once, or as often as the compiler knows it to run:
the loop over the steps of a call, which it does not know, is one step.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'all-to-all',
    'collective-broadcast',
    'collective-permute',
    'ragged-all-to-all',
    'reduce-scatter',
)
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
# Instructions that only name existing bytes.
_FREE = {
    'after-all', 'bitcast', 'constant', 'get-tuple-element', 'iota', 'opt-barrier', 'parameter',
    'partition-id', 'replica-id', 'tuple',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'gather', 'slice')
_LAYOUT = re.compile(r'(?<=\])\{[^{}]*\}')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
# What copies in the background, and where the result is among what it makes.
_COPIES = {'copy-start': 0, 'slice-start': -2}


class Array(NamedTuple):
    """An array of a program."""

    dtype: str  # XLA's name: 'f32', 'bf16'
    shape: tuple[int, ...]
    # '1,0:T<8,128>S<1>': axes from the fastest on, tiles, and which memory, if not the main one
    layout: str = ''

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self._bytes(self.size)

    @property
    def padded_bytes(self) -> int:
        """With the padding of a TPU's tiles."""
        shape, found = list(self.shape), re.match(r'([\d,]+):T<([\d,]+)>', self.layout)
        if found:
            axes, tile = (list(map(int, numbers.split(','))) for numbers in found.groups())
            for axis, length in zip(axes, reversed(tile), strict=False):
                shape[axis] = math.ceil(shape[axis] / length) * length
        return self._bytes(math.prod(shape))

    @property
    def in_main_memory(self) -> bool:
        """Whether it lies in the device's memory, and not in a TPU's memory on the chip."""
        return 'S<' not in self.layout

    def _bytes(self, size: int) -> int:
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(re.search(r'\d+', self.dtype)[0])
        return math.ceil(size * bits / 8)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]  # that it makes
    operation: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, dict[str, Instruction]]  # by name; their instructions, by name
    entry: str


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` spells."""
    computations, entry, current = {}, '', None
    for line in text.splitlines():
        line = re.sub(r'/\*.*?\*/', '', line)
        if head := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$', line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _instruction(line)):
            current[found.name] = found
    return Program(computations, entry)


def sent(program: Program) -> Counter[tuple[str, Array]]:
    """How often each array is sent in a step, by (operation of `COLLECTIVES`, array)."""
    found: Counter[tuple[str, Array]] = Counter()
    for instruction in (i for c in program.computations.values() for i in c.values()):
        operation = instruction.operation.removesuffix('-start')
        if operation in COLLECTIVES:
            arrays = instruction.arrays
            if operation == 'all-reduce':
                # Its start makes (operands, results) by jaxlib 0.12, the results by 0.10.
                arrays = arrays[-len(instruction.operands) :]
            elif instruction.operation.endswith('-start'):
                # The instruction makes (operand, result, context); the result is sent.
                arrays = arrays[1:2]
            found.update((operation, array._replace(layout='')) for array in arrays)
    return found


def flops(program: Program) -> float:
    """FLOPs of convolutions and matrix products of a GPU's program; a multiply-add counts two."""
    return _total(program, program.entry, _products, into_fusions=True)


def traffic(program: Program) -> float:
    """Bytes of the device's memory that the instructions read and write, if no cache keeps them between two.

    Of an array that an instruction slices, only the slices count. What a TPU's compiler keeps in the memory
    on the chip does not.
    """
    return _total(program, program.entry, functools.partial(_traffic, program), into_fusions=False)


def _instruction(line: str) -> Instruction | None:
    # The parentheses in layouts are none of the instruction's.
    line = _LAYOUT.sub(lambda layout: layout[0].replace('(', '<').replace(')', '>'), line.strip())
    match = re.match(r'(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$', line)
    if not match:
        return None
    root, name, shape, operation, rest = match.groups()
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += {'(': 1, ')': -1}.get(rest[end], 0)
        end += 1
    operands = tuple(re.findall(r'%([\w.\-]+)', rest[: end - 1]))
    return Instruction(name, _arrays(shape), operation, operands, rest[end:], bool(root))


def _arrays(shape: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(n.lstrip('<=')) for n in dims.split(',') if n), layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _total(program: Program, name: str, cost, *, into_fusions: bool) -> float:
    """`cost(computation, instruction)` added up over a computation and those that it runs."""

    @functools.cache
    def of(name: str) -> float:
        computation = program.computations[name]
        return sum(one(computation, instruction) for instruction in computation.values())

    def one(computation: dict[str, Instruction], instruction: Instruction) -> float:
        operation = instruction.operation
        inner = [n for n in _called(instruction.attributes) if n in program.computations]
        if operation == 'while':
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            return (int(known[1]) if known else 1) * sum(map(of, inner))
        if operation == 'conditional':
            return max(map(of, inner), default=0)
        if operation in ('call', 'async-start') or (operation == 'fusion' and into_fusions):
            return sum(map(of, inner))
        return cost(computation, instruction)

    return of(name)


def _called(attributes: str) -> Iterator[str]:
    """Computations that an instruction runs, not those that it hands to a sum."""
    for value in re.findall(
        r'(?:calls|body|condition|branch_computations|true_computation|false_computation)=(\{[^}]*\}|\S+)',
        attributes,
    ):
        yield from re.findall(r'%([\w.\-]+)', value)
    if 'all-reduce' not in attributes and 'dimensions=' not in attributes:
        yield from re.findall(r'to_apply=%([\w.\-]+)', attributes)


def _products(computation: dict[str, Instruction], instruction: Instruction) -> float:
    arrays = [a for name in instruction.operands if name in computation for a in computation[name].arrays]
    attributes, out = instruction.attributes, instruction.arrays
    if labels := re.search(r'dim_labels=\w+_(\w+)->(\w+)', attributes):
        # 'b01f_01io->b01f', of the forward convolution even where a gradient is what is computed.
        features = labels[1].index('o')
        backward_input = 'convBackwardInput' in attributes
        if 'convBackwardFilter' in attributes:
            kernel, result = out[0], arrays[1]
        else:
            kernel, result = arrays[1], arrays[0] if backward_input else out[0]
        return 2 * result.size * kernel.size / kernel.shape[features]
    if instruction.operation == 'dot':
        dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', attributes)
        return 2 * out[0].size * math.prod(arrays[0].shape[int(d)] for d in dims[1].split(',') if d)
    if instruction.operation == 'custom-call' and '__cublas' in attributes:
        dims = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', attributes)
        contracted = [arrays[0].shape[int(d)] for d in json.loads(dims[1])] if dims else []
        return 2 * out[0].size * math.prod(contracted)
    return 0


def _traffic(program: Program, computation: dict[str, Instruction], instruction: Instruction) -> float:
    operation = instruction.operation
    if operation in _FREE or operation.endswith('-done'):
        return 0
    if operation in _COPIES:
        source, copy = computation[instruction.operands[0]].arrays[0], instruction.arrays[_COPIES[operation]]
        return copy.padded_bytes * (source.in_main_memory + copy.in_main_memory)
    out = _bytes(instruction.arrays)
    if operation in _SLICES:
        source = computation[instruction.operands[0]].arrays[0]
        return out + (_padded(instruction.arrays) if source.in_main_memory else 0)
    if operation == 'dynamic-update-slice':
        update = computation[instruction.operands[1]].arrays
        return _bytes(update) + (_padded(update) if out else 0)
    if operation == 'fusion':
        (inner,) = [n for n in _called(instruction.attributes) if n in program.computations]
        return _fusion_traffic(program.computations[inner], out)
    if operation == 'custom-call' and re.search('__cu(blas|dnn)', instruction.attributes):
        # The last is scratch memory.
        out = _bytes(instruction.arrays[:1])
    read = {name for name in instruction.operands if name in computation}
    return out + sum(_bytes(computation[name].arrays) for name in read)


def _fusion_traffic(inner: dict[str, Instruction], out: float) -> float:
    """Bytes in and out of a fusion with these instructions, whose results have `out` bytes."""
    users: dict[str, list[Instruction]] = {}
    for instruction in inner.values():
        for name in {*instruction.operands}:
            users.setdefault(name, []).append(instruction)
    total = out
    for instruction in inner.values():
        if instruction.operation == 'dynamic-update-slice' and instruction.root and out:
            # In place: the rest of the array is neither read nor written.
            total += _padded(inner[instruction.operands[1]].arrays) - out
        if instruction.operation != 'parameter' or not _bytes(instruction.arrays):
            continue
        using = users.get(instruction.name, [])
        if using and all(u.operation in _SLICES and u.operands[0] == instruction.name for u in using):
            total += sum(_padded(u.arrays) for u in using)
        elif not all(
            u.operation == 'dynamic-update-slice' and u.root and u.operands[0] == instruction.name
            for u in using
        ):
            total += _bytes(instruction.arrays)
    return total


def _bytes(arrays: tuple[Array, ...]) -> int:
    return _padded(tuple(array for array in arrays if array.in_main_memory))


def _padded(arrays: tuple[Array, ...]) -> int:
    return sum(array.padded_bytes for array in arrays)
