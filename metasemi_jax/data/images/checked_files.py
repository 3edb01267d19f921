"""Which image files were found good, so that a restart need not decode them all again.

One file for each source below the user's cache: a sorted array of 64-bit keys, of a file's name, size and
time of change; the lowest bit of a key says that the image is in colour.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from metasemi_jax.files import open_atomically, user_cache

COLOUR = np.uint64(1)


def file_key(name: str, path: str) -> int:
    """64 bits that change with a file's name, size and time of change; another each time if it has none."""
    try:
        status = os.stat(path)
    except OSError:
        return int.from_bytes(os.urandom(8)) & ~1
    text = f'{name}\0{status.st_size}\0{status.st_mtime_ns}'
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest()) & ~1


def recall(source: str, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of `keys` (uint64 [N]) is of a file known to be good, and of one in colour: bool [N]."""
    try:
        known = np.load(_path(source))
        if known.dtype != np.uint64 or known.ndim != 1:
            raise ValueError('of another form')
    # A cache that is missing, cut short or of another program counts as empty.
    except (OSError, ValueError, EOFError):
        known = np.zeros(0, np.uint64)
    grey, colour = np.isin(keys, known), np.isin(keys | COLOUR, known)
    return grey | colour, colour


def remember(source: str, keys: np.ndarray, colour: np.ndarray) -> None:
    """Remember which files are good; an unwritable cache is ignored."""
    path = _path(source)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path, 'wb') as file:
            np.save(file, np.sort(keys | colour.astype(np.uint64)))


def _path(source: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:32]
    return user_cache('checked_images') / f'{name}.npy'
