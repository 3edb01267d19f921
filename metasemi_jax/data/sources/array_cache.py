"""Decoded arrays on disk: written once, all or nothing, then mapped into memory."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax import files

INFO = 'info.json'
CHUNK_BYTES = 1 << 24


def read_cache(folder: Path) -> tuple[dict[str, np.ndarray], Any] | None:
    """The arrays of a cache, memory-mapped read-only, and its info; None where there is no whole cache.

    Raises:
      OSError: it is there and may not be read.
    """
    try:
        info = json.loads((folder / INFO).read_text())
        arrays = {name: np.load(folder / f'{name}.npy', mmap_mode='r') for name in info['arrays']}
    # A file cut short makes NumPy raise ValueError, JSON's error included; EOFError where nothing is left.
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, EOFError):
        return None
    forms = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    return (arrays, info['info']) if forms == info['arrays'] else None


def write_cache(folder: Path, arrays: Mapping[str, np.ndarray], info: Any) -> None:
    """Write arrays and `info` (any JSON) beside `folder`, then rename; call it with the `lock` held.

    Raises:
      OSError: the disk is full, or the folder cannot be written. Nothing half-written stays.
    """
    # A cache that `read_cache` found damaged.
    shutil.rmtree(folder, ignore_errors=True)
    with files.folder_atomically(folder) as beside:
        for name, array in arrays.items():
            _write_array(beside / f'{name}.npy', array)
        forms = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
        _write(beside / INFO, [json.dumps({'arrays': forms, 'info': info}, indent=2).encode()])


def lock(folder: Path, *, waiting: Callable[[], None]) -> AbstractContextManager[None]:
    """Let one process at a time work on `folder`; a killed one holds no lock.

    Args:
      folder: the lock is a file beside it, which stays.
      waiting: called once if another process holds the lock.
    """
    return files.lock(folder.with_name(f'{folder.name}.lock'), waiting=waiting)


def _write_array(path: Path, array: np.ndarray) -> None:
    # On a full disk `np.save` loses the reason, and a memory map kills the process.
    def blocks() -> Iterator[bytes]:
        rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            yield np.ascontiguousarray(array[start : start + rows]).tobytes()

    with path.open('wb') as file:
        header = {'descr': array.dtype.str, 'fortran_order': False, 'shape': array.shape}
        np.lib.format.write_array_header_1_0(file, header)
    _write(path, blocks(), mode='ab')


def _write(path: Path, blocks: Any, mode: str = 'wb') -> None:
    with path.open(mode) as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
