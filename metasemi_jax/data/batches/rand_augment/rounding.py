"""Where Pillow's `autocontrast` rounds down, found on the host."""

import functools
from typing import NamedTuple

import numpy as np


class Shortfalls(NamedTuple):
    """For which darkest and brightest level `autocontrast` makes some levels one too dark.

    The exact new level of v is 255·(v - lo)/(hi - lo). Pillow computes v·s - lo·s with s = 255/(hi - lo) in
    float64 and cuts the fraction off, so that an exact level may come out one lower. With g the greatest
    common divisor of 255 and hi - lo, there are g exact levels above 0 for each lo: 255·j/g, j = 1..g.
    """

    short: np.ndarray  # uint8 [rows, 256], 1 or 0: case i is in row i // 256, and the last row is empty
    first: np.ndarray  # int32 [256], by hi - lo: the case of lo = 0, j = 1; each lo has g cases
    divisor: np.ndarray  # int32 [256], by hi - lo: g


@functools.cache
def autocontrast_shortfalls() -> Shortfalls:
    """All 158,310 cases; 12,094 of them fall short."""
    divisor = np.gcd(np.arange(256), 255).astype(np.int32)
    cases, first = [np.zeros(0, bool)], np.zeros(256, np.int32)
    for spread in range(1, 256):
        first[spread] = sum(map(len, cases))
        darkest = np.arange(256 - spread)[:, None]
        part = np.arange(1, divisor[spread] + 1)
        scale = 255.0 / spread
        level = (darkest + part * (spread // divisor[spread])) * scale + -darkest * scale
        cases.append((level < part * (255 // divisor[spread])).ravel())
    short = np.concatenate(cases)
    short = np.pad(short, (0, 256 + -len(short) % 256)).reshape(-1, 256).astype(np.uint8)
    return Shortfalls(short, first, divisor)
