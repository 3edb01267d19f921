"""Decoded arrays on disk: written once, all or nothing, then mapped into memory."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from metasemi_jax import files

INFO = 'info.json'


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
    return (arrays, info['info']) if _forms(arrays) == info['arrays'] else None


def write_cache(folder: Path, arrays: Mapping[str, np.ndarray], info: Any) -> None:
    """Write arrays and `info` (any JSON) beside `folder`, then rename; call it under a lock.

    Raises:
      OSError: the disk is full, or the folder cannot be written. Nothing half-written stays.
    """
    # A cache that `read_cache` found damaged.
    shutil.rmtree(folder, ignore_errors=True)
    with files.folder_atomically(folder) as beside:
        for name, array in arrays.items():
            with files.open_atomically(beside / f'{name}.npy', 'wb') as file:
                # Block by block: into a file itself NumPy writes by C, which loses the reason on a full disk.
                np.save(SimpleNamespace(write=file.write), array)
        files.write_json(beside / INFO, {'arrays': _forms(arrays), 'info': info})


def _forms(arrays: Mapping[str, np.ndarray]) -> dict[str, list]:
    return {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
