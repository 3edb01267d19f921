"""Image files of any size, made into one uint8 array by Pillow."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from metasemi_jax.errors import UserError
from metasemi_jax.progress import ProgressLine

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
GREY_MODES = ('1', 'L', 'LA', 'La', 'F')  # and 'I', 'I;16', ...
SHOWN = 10
FILES_PER_TASK = 32
BAD, COLOUR, GREY = -1, 1, 0


def read_images(
    paths: Sequence[Path], names: Sequence[str], size: int, *, memory_budget: int, source: str
) -> np.ndarray:
    """Decode image files, in parallel, into memory.

    Each image is turned as its EXIF orientation says, laid on black where it is transparent, scaled so that
    its shorter side has `size` pixels (bilinear, antialiased) and cut to its middle square. An image that is
    `size` × `size` keeps its pixels. 16-bit grey becomes 8-bit.

    Args:
      paths: N files.
      names: what messages call them.
      size: side of the square, in pixels.
      memory_budget: bytes that the result may take.
      source: what messages call the whole.

    Returns:
      uint8 [N, size, size, C]: C is 3 if any file is in colour, by its header, and 1 otherwise.

    Raises:
      UserError: files that cannot be read (all of them are counted, the first ten named), or more than
        `memory_budget`.
    """
    # Now, and not by several threads at once.
    Image.init()
    reasons: dict[int, str] = {}

    def attempt(function: Callable[[int], Any], i: int, failed: Any) -> Any:
        try:
            return function(i)
        # Pillow fails on damaged files with SyntaxError, struct.error and others.
        except Exception as error:
            reasons[i] = failure_reason(error)
            return failed

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kinds = list(_map(pool, lambda i: attempt(lambda i: _kind(paths[i]), i, BAD), len(paths)))
        colour = COLOUR in kinds
        shape = (len(paths), size, size, 3 if colour else 1)
        check_memory(shape, memory_budget, source)
        images = np.empty(shape, np.uint8)

        def decode(i: int) -> None:
            images[i] = read_image(paths[i], size, colour=colour).reshape(shape[1:])

        todo = [i for i, kind in enumerate(kinds) if kind != BAD]
        done = _map(pool, lambda k: attempt(decode, todo[k], None), len(todo))
        _show_progress(done, len(todo), source)
    if reasons:
        listed = [f'{names[i]} ({reasons[i]})' for i in sorted(reasons)]
        raise UserError(
            f'{source}: {len(reasons):,} of {len(paths):,} images cannot be read: {first_ten(listed)}; '
            'repair them or take them out'
        )
    return images


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` pixels (bilinear, antialiased), then the middle square."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def check_memory(shape: tuple[int, ...], memory_budget: int, source: str) -> None:
    """Refuse uint8 images of `shape` [N, H, W, C] that would take more bytes than `memory_budget`."""
    needed = int(np.prod(shape, dtype=np.int64))
    if needed > memory_budget:
        raise UserError(
            f'{source}: {shape[0]:,} images of {shape[1]}×{shape[2]}×{shape[3]} take {needed:,} bytes, '
            f'more than data.memory_budget={memory_budget:,}, and streaming from disk is not in yet; use a '
            'smaller --config.data.image_size= or a larger --config.data.memory_budget='
        )


def first_ten(names: Sequence[str]) -> str:
    """'a, b, ... and 3 more'."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def _map(pool: ThreadPoolExecutor, function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """`function` of 0 to `count`, in order; many in a task, for a task costs more than a small image."""
    starts = range(0, count, FILES_PER_TASK)

    def task(start: int) -> list[Any]:
        return [function(i) for i in range(start, min(start + FILES_PER_TASK, count))]

    for results in pool.map(task, starts):
        yield from results


def _kind(path: Path) -> int:
    with Image.open(path) as image:
        if image.mode == 'P':
            mode, palette = image.palette.getdata()
            levels = np.frombuffer(palette, np.uint8)
            if mode == 'RGB' and len(levels) % 3 == 0:
                rows = levels.reshape(-1, 3)
                return GREY if (rows == rows[:, :1]).all() else COLOUR
        return GREY if image.mode in GREY_MODES or image.mode.startswith('I') else COLOUR


def read_image(path: Path, size: int, *, colour: bool) -> np.ndarray:
    """One image as `read_images` makes it: uint8 [size, size, 3], or [size, size] unless `colour`.

    Raises:
      Exception: of whatever kind Pillow chose; `failure_reason` puts it into words.
    """
    with Image.open(path) as image:
        # A large JPEG is decoded at a half, a quarter or an eighth, no smaller than twice the size.
        image.draft(None, (2 * size, 2 * size))
        upright = _eight_bits(ImageOps.exif_transpose(image))
        if upright.has_transparency_data:
            layer = upright.convert('RGBA')
            upright = Image.alpha_composite(Image.new('RGBA', layer.size, (0, 0, 0, 255)), layer)
        return np.asarray(resize_image(upright.convert('RGB' if colour else 'L'), size))


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == 'F':
        raise ValueError('float pixels have no known range')
    if not image.mode.startswith('I'):
        return image
    # Pillow's own conversion would clip 16-bit pixels to 255.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError('its pixels have more than 16 bits')
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def failure_reason(error: Exception) -> str:
    """Why an image could not be read, for people, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return 'not an image, or damaged'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return ' '.join(str(error).split()) or type(error).__name__


def _show_progress(done: Iterator[Any], total: int, source: str) -> None:
    # A line in a log stays there.
    seconds = 0.5 if sys.stdout.isatty() else 10
    line = ProgressLine()
    start = shown = time.perf_counter()
    for count, _ in enumerate(done, start=1):
        now = time.perf_counter()
        if now - shown >= seconds:
            speed = count / (now - start)
            line.show(f'{source}: read {count:,}/{total:,} images, {speed:,.0f} images/s')
            shown = now
    line.close()
