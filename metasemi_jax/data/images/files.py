"""Image files of any size on disk: decoded into memory, or checked to be decoded later."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from metasemi_jax.data.images.attempts import attempts, refuse_bad
from metasemi_jax.data.images.checked_files import file_key, recall, remember
from metasemi_jax.data.images.decode import check_image, decode_square, is_colour
from metasemi_jax.progress import ImageCounter, ProgressLine

SUFFIXES = ('.png', '.jpg', '.jpeg', '.jfif', '.bmp', '.webp', '.tif', '.tiff', '.gif')  # of `FORMATS`
ADVICE = 'repair them or take them out'


class ImageFiles:
    """Files below a folder, by number: a million names take about 50 MB, much less than as Python strings."""

    def __init__(self, root: str | os.PathLike, names: Sequence[str]):
        """`names` are relative to `root`, with '/'."""
        encoded = [os.fsencode(name) for name in names]
        self._root = os.fspath(root)
        self._text = b''.join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, i: int) -> str:
        """Name of file `i` in messages."""
        return os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]])

    def path(self, i: int) -> str:
        """Path of file `i`."""
        return os.path.join(self._root, self.name(i))

    def open(self, i: int) -> BinaryIO:
        """Open the encoded file `i`."""
        return open(self.path(i), 'rb')


def read_images(files: ImageFiles, size: int, *, source: str) -> np.ndarray:
    """Decode image files, in parallel, into memory.

    Args:
      files: N of them.
      size: side of the square, in pixels; how an image becomes one, `decode_square` says.
      source: what messages call the whole.

    Returns:
      uint8 [N, size, size, C]: C is 3 if any file is in colour, by its header, and 1 otherwise.

    Raises:
      UserError: files that cannot be read; all of them are counted, the first ten named.
    """
    reasons: dict[int, str] = {}
    colour = any(list(attempts(lambda i: is_colour(files.path(i)), range(len(files)), reasons)))
    images = np.empty((len(files), size, size, 3 if colour else 1), np.uint8)
    todo = [i for i in range(len(files)) if i not in reasons]
    decoded = attempts(lambda i: decode_square(files.path(i), size, colour=colour), todo, reasons)
    for i, pixels in zip(todo, counted(decoded, len(todo), f'{source}: read'), strict=True):
        if pixels is not None:
            images[i] = pixels
    refuse_bad(files.name, reasons, len(files), source, ADVICE)
    return images


def check_images(files: ImageFiles, *, source: str) -> bool:
    """Find every file that cannot be decoded, before training; returns whether any is in colour.

    A file that was found good is not looked into again, by its name, size and time of change: these are
    remembered, see `checked_files`.

    Raises:
      UserError: files that cannot be read; all of them are counted, the first ten named.
    """
    reasons: dict[int, str] = {}
    keys = np.array([file_key(files.name(i), files.path(i)) for i in range(len(files))], np.uint64)
    good, colour = recall(source, keys)
    todo = np.flatnonzero(~good).tolist()
    checks = attempts(lambda i: check_image(files.path(i)), todo, reasons)
    kinds = counted(checks, len(todo), f'{source}: checked')
    try:
        for i, kind in zip(todo, kinds, strict=True):
            good[i], colour[i] = kind is not None, bool(kind)
    finally:
        # After Ctrl-C too: the checks so far may have taken minutes.
        if todo:
            remember(source, keys[good], colour[good])
    refuse_bad(files.name, reasons, len(files), source, ADVICE)
    return bool(colour.any())


def counted(done: Iterator[Any], total: int, doing: str) -> Iterator[Any]:
    """`done`, its progress shown if it takes long."""
    with contextlib.closing(ProgressLine()) as line:
        count = ImageCounter(line, doing, always=False)
        for result in done:
            count(total)
            yield result
