"""Sines and cosines to 2**-45 without float64, for the rotations of `geometry`.

Pillow computes a rotation in float64 and rounds to 2**-16; float32 would round many angles otherwise. A
number here is a `Limbs`, three integers of 15 bits: (first + second/2**15 + third/2**30) / 2**15.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array

Limbs = tuple[Array, Array, Array]
BITS = 15
MASK = (1 << BITS) - 1
MAX_DEGREES = 45
STEPS_PER_DEGREE = 4096
FINE_BITS = 9


def cos_sin(steps: Array) -> tuple[Limbs, Limbs]:
    """Cosine and sine of `steps` int32, 4096 a degree, held within 45 degrees either way."""
    last = MAX_DEGREES * STEPS_PER_DEGREE
    steps = jnp.clip(steps, -last, last) + last
    coarse, fine = map(jnp.asarray, _tables())
    a, b = coarse[steps >> FINE_BITS], fine[steps & ((1 << FINE_BITS) - 1)]
    (cos_a, sin_a), (cos_b, sin_b) = (((*x[0],), (*x[1],)) for x in (a, b))
    cosine = _carry(*map(jnp.subtract, _times(cos_a, cos_b), _times(sin_a, sin_b)))
    sine = _carry(*map(jnp.add, _times(sin_a, cos_b), _times(cos_a, sin_b)))
    return cosine, sine


def to_16_bits(x: Limbs) -> Array:
    """x in units of 2**-16, rounded to the nearest integer."""
    return 2 * x[0] + ((x[1] + (1 << 13)) >> 14)


def offset(x: Limbs, m: int, y: Limbs, n: int, size: int) -> Array:
    """(x·m + y·n + size)/2 in units of 2**-16, rounded to the nearest integer."""
    third = x[2] * m + y[2] * n
    second = x[1] * m + y[1] * n + (third >> BITS)
    first = x[0] * m + y[0] * n + (size << BITS) + (second >> BITS)
    return first + ((second & MASK) >> (BITS - 1))


def _times(x: Limbs, y: Limbs) -> tuple[Array, Array]:
    """x·y = (first·2**15 + second)/2**45, with second below 2**15 that sums fit; what is below is cut off."""
    third = (x[2] * y[0] >> BITS) + (x[1] * y[1] >> BITS) + (x[0] * y[2] >> BITS)
    second = x[1] * y[0] + x[0] * y[1] + third
    return x[0] * y[0] + (second >> BITS), second & MASK


def _carry(first: Array, second: Array) -> Limbs:
    first = first + (second >> BITS)
    return first >> BITS, first & MASK, second & MASK


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """int32 [angles, cosine and sine, limbs]: every eighth of a degree from -45 on, and 4096ths of one."""
    eighths = [i / 8 - MAX_DEGREES for i in range(16 * MAX_DEGREES + 1)]
    return _limbs(eighths), _limbs([i / STEPS_PER_DEGREE for i in range(1 << FINE_BITS)])


def _limbs(degrees: list[float]) -> np.ndarray:
    values = [[f(math.radians(angle)) for f in (math.cos, math.sin)] for angle in degrees]
    fixed = np.round(np.ldexp(values, 3 * BITS)).astype(np.int64)
    limbs = (fixed >> 2 * BITS, fixed >> BITS & MASK, fixed & MASK)
    return np.stack(limbs, -1).astype(np.int32)
