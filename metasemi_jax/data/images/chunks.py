"""Images to predict, a batch at a time: files, the arrays of an .npz file, or a split in memory.

An image that cannot be used is reported in its chunk and does not stop the rest.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from metasemi_jax.data.images.decode import decode_square, reason
from metasemi_jax.data.images.files import SUFFIXES
from metasemi_jax.data.images.parallel import in_threads
from metasemi_jax.data.paths import images_path
from metasemi_jax.data.sources.image_arrays import (
    channels_first,
    open_npy,
    pixels_to_uint8,
    reading_npz,
    resize_images,
)
from metasemi_jax.data.sources.image_lists import list_below
from metasemi_jax.errors import UserError

ImageShape = tuple[int, int, int]


class Chunk(NamedTuple):
    """n images, at most a batch."""

    names: list[str]
    images: np.ndarray  # uint8 [n, H, W, C]; black where `errors` has an entry
    errors: dict[int, str]  # position in the chunk -> why that image cannot be used
    labels: np.ndarray | None = None  # int [n], -1 where it is not known; None where no label is


class ImageSource(NamedTuple):
    """Number of images, and a function that yields them in order, in chunks of at most a given size."""

    count: int
    chunks: Callable[[int], Iterator[Chunk]]


def open_images(
    arguments: Sequence[str],
    image_shape: ImageShape,
    *,
    resize: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> list[ImageSource]:
    """Image files, folders of them (and the folders below), and .npz files with `x`.

    Files are read as the evaluation of training reads them, see `decode_square`; grey or in colour as
    `image_shape` says.

    Args:
      arguments: paths.
      image_shape: [H, W, C] of what the network takes.
      resize: argument of `decode_square`, for image files.
      say: called with a line for people on what was left out of a folder.

    Raises:
      UserError: a path that does not exist, a folder without images, images that cannot be given this shape.
    """
    sources, paths = [], []
    for argument in arguments:
        path = images_path(argument)
        if path.suffix.lower() == '.npz':
            sources.append(_npz_source(path, image_shape))
        elif path.is_dir():
            found, left_out = list_below(path)
            if not found:
                raise UserError(f'{argument} holds no image ({", ".join(SUFFIXES)})')
            if left_out:
                say(left_out)
            paths.extend(found)
        else:
            paths.append(path)
    return [*([_file_source(paths, image_shape, resize)] if paths else []), *sources]


def array_source(names: Sequence[str], images: Any, positions: np.ndarray, labels: np.ndarray) -> ImageSource:
    """The images at `positions` of uint8 `images` [N, H, W, C], which NumPy may have to read from disk.

    Args:
      names, positions, labels: one entry for each image of the source; -1 where the label is not known.
      images: indexed by a part of `positions` at a time.
    """
    known = bool((labels >= 0).any())

    def chunks(size: int) -> Iterator[Chunk]:
        for start in range(0, len(positions), size):
            part = slice(start, start + size)
            pixels = np.asarray(images[positions[part]])
            yield Chunk(list(map(str, names[part])), pixels, {}, labels[part] if known else None)

    return ImageSource(len(positions), chunks)


def _file_source(paths: list[Path], image_shape: ImageShape, resize: int) -> ImageSource:
    height, width, channels = image_shape
    if height != width or channels not in (1, 3):
        raise UserError(
            f'the network takes images of {height}×{width}×{channels}, and image files become squares, grey '
            'or in colour; give it an .npz file'
        )

    def decode(i: int) -> np.ndarray | str:
        try:
            return decode_square(paths[i], height, resize=resize, colour=channels == 3)
        # Pillow fails on damaged files with SyntaxError, struct.error and others.
        except Exception as error:
            return reason(error)

    def chunks(size: int) -> Iterator[Chunk]:
        # One sequence through all chunks: while the device works on one, its successor is decoded.
        decoded = in_threads(decode, range(len(paths)))
        for start in range(0, len(paths), size):
            names = [str(path) for path in paths[start : start + size]]
            images, errors = np.zeros((len(names), *image_shape), np.uint8), {}
            for i in range(len(names)):
                result = next(decoded)
                if isinstance(result, str):
                    errors[i] = result
                else:
                    images[i] = result
            yield Chunk(names, images, errors)

    return ImageSource(len(paths), chunks)


def _npz_source(path: Path, image_shape: ImageShape) -> ImageSource:
    """Read from the archive as it is needed: `np.load` would take all of it into memory."""
    height, width, channels = image_shape
    shape, fortran_order, dtype = _npz_header(path)
    form = (*shape[1:], 1) if len(shape) == 3 else shape[1:]
    if len(shape) not in (3, 4) or min(shape) < 1 or dtype.kind not in 'iuf' or fortran_order:
        order = ' in Fortran order' if fortran_order else ''
        raise UserError(
            f'{path}: x must be images [N, H, W] or [N, H, W, C] of integers or floats, it is '
            f'{list(shape)} of {dtype}{order}'
        )
    if form != image_shape and (fault := channels_first('x', shape)):
        raise UserError(f'{path}: {fault}')
    if form[-1] != channels or (form != image_shape and height != width):
        raise UserError(
            f'{path}: its images are of {"×".join(map(str, form))}, the network takes '
            f'{"×".join(map(str, image_shape))}; give it images of this form'
        )

    def convert(image: np.ndarray) -> np.ndarray:
        size = 0 if form == image_shape else height
        return resize_images(pixels_to_uint8(image).reshape(1, *form), size)[0]

    def chunks(size: int) -> Iterator[Chunk]:
        with zipfile.ZipFile(path) as archive, archive.open('x.npy') as file:
            open_npy(file)
            for start in range(0, shape[0], size):
                names = [f'{path}[{i}]' for i in range(start, min(start + size, shape[0]))]
                images, errors = np.zeros((len(names), *image_shape), np.uint8), {}
                for i, image in enumerate(_read_rows(path, file, (len(names), *shape[1:]), dtype)):
                    try:
                        images[i] = convert(image)
                    except ValueError as error:
                        errors[i] = str(error)
                yield Chunk(names, images, errors)

    return ImageSource(shape[0], chunks)


def _npz_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    with reading_npz(path), zipfile.ZipFile(path) as archive:
        if 'x.npy' not in archive.namelist():
            raise ValueError(f'it holds no x, but {", ".join(archive.namelist()) or "nothing"}')
        with archive.open('x.npy') as file:
            return open_npy(file)


def _read_rows(path: Path, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    wanted = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    with reading_npz(path):
        content = file.read(wanted)
        if len(content) < wanted:
            raise EOFError('it is cut short')
    return np.frombuffer(content, dtype).reshape(shape)
