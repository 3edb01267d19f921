"""Images in an uncompressed tar file, read where they lie."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

MOST_PADDING = 1 << 20  # bytes of zeros at the end of an archive; GNU tar writes at most 10,752


class TarImages:
    """Encoded images by their places in a file; each read opens it: threads and processes share none."""

    def __init__(self, path: Path, places: np.ndarray):
        """`places`: int64 [N, 2], the first byte of each image and the number of its bytes."""
        self._path, self._places = path, np.asarray(places)

    def open(self, i: int) -> BinaryIO:
        """Open the encoded image `i`."""
        return open_part(self._path, *self._places[i].tolist())

    def name(self, i: int) -> str:
        """Name of image `i` in messages."""
        return f'{self._path}, byte {self._places[i, 0]:,}'


def open_part(path: Path, start: int, length: int) -> BinaryIO:
    """`length` bytes of a file from `start` on, read at once."""
    with path.open('rb') as file:
        file.seek(start)
        return io.BytesIO(file.read(length))


def files_in(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular files of an archive; only headers are read.

    Raises:
      tarfile.TarError: it is cut short or damaged. tarfile itself takes a damaged header for the end, and so
        the zeros of a file that is not wholly downloaded.
    """
    yield from (member for member in archive if member.isfile())
    archive.fileobj.seek(archive.offset)
    end = archive.fileobj.read(MOST_PADDING + 1)
    if not end or len(end) > MOST_PADDING or end.strip(b'\0'):
        raise tarfile.ReadError(f'no header at byte {archive.offset:,}')
