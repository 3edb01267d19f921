"""Reader of `.safetensors` files: a length, a header in JSON, and bytes. Nothing in one can be run."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
DTYPES = {
    'F64': np.dtype('<f8'),
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype(jnp.bfloat16),
    'I64': np.dtype('<i8'),
    'I32': np.dtype('<i4'),
    'I16': np.dtype('<i2'),
    'I8': np.dtype('i1'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('?'),
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> array, a read-only view of the file's bytes.

    Raises:
      ValueError: what is wrong, as the rest of '<path> ...'.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:8], 'little')
    if len(data) < 8 or size > min(LONGEST_HEADER, len(data) - 8):
        raise ValueError('is cut short, or no safetensors file')
    header = _parse(data[8 : 8 + size])
    body = memoryview(data)[8 + size :]
    return {name: _array(name, about, body) for name, about in header.items() if name != '__metadata__'}


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    # RecursionError: of a list in a list in a list ...
    except (ValueError, RecursionError) as error:
        raise ValueError('has a damaged header, or is no safetensors file') from error
    if not isinstance(header, dict):
        raise ValueError('has a header that names no arrays')
    return header


def _array(name: str, about: Any, body: memoryview) -> np.ndarray:
    try:
        code, shape, (start, end) = about['dtype'], tuple(about['shape']), about['data_offsets']
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"has a damaged header ('{name}')") from error
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"holds '{name}' in the dtype {code!r}, which is unknown; use float32 weights")
    dtype = DTYPES[code]
    if not whole or math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"has a damaged header ('{name}')")
    if end > len(body):
        raise ValueError(f"is cut short: '{name}' ends beyond it")
    return np.frombuffer(body[start:end], dtype).reshape(shape)
