"""Images in an .npz file, labels with scikit-learn's convention for semi-supervised learning."""

import difflib
import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.decode import resize_image
from metasemi_jax.errors import UserError, as_user_error, first_ten, reason_of

ARRAYS = ('x', 'y', 'x_val', 'y_val', 'x_test', 'y_test', 'class_names')
SUFFIXES = ('', '_val', '_test')


def load_npz(path: Path, *, image_size: int, memory_budget: int) -> Dataset:
    """The arrays `x` and `y`, and, where they are there, `x_val`, `y_val`, `x_test`, `y_test`, `class_names`.

    `x` is [N, H, W] or [N, H, W, C], integers of 0 to 255 or floats of 0 to 1. `y` is integers [N]; -1 means
    unlabeled. Without `class_names` the classes are called '0' to the largest label of `y`.

    Args:
      image_size: images of another size are resized as files are, see `read_images`; 0 keeps their size.
      memory_budget: bytes that the images may take.

    Returns:
      A dataset whose ids are zero-padded positions in `x`; `content` is a hash of checksums in the file.

    Raises:
      UserError: arrays that are missing, unknown or of another form, pixels or labels out of range, NaN.
    """
    shapes, checksums = _headers(path)
    _check_names(path, shapes)
    _check_pairs(path, shapes)
    _check_memory(path, shapes, image_size, memory_budget)
    with reading_npz(path), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    images, labels = {}, {}
    for suffix in SUFFIXES:
        if f'x{suffix}' in shapes:
            labels[suffix] = _labels(path, f'y{suffix}', arrays.pop(f'y{suffix}'), count=shapes['x'][0])
            pixels = _pixels(path, f'x{suffix}', arrays.pop(f'x{suffix}'))
            images[suffix] = resize_images(pixels, image_size)
    forms = sorted({pixels.shape[1:] for pixels in images.values()})
    if len(forms) > 1:
        raise UserError(f'{path}: the images of x, x_val and x_test differ in shape: {forms}')
    class_names = _class_names(path, arrays.get('class_names'), labels)
    count = len(labels[''])
    ids = np.array([f'{i:0{max(6, len(str(count - 1)))}d}' for i in range(count)])
    test, val = ((images.get(suffix), labels.get(suffix)) for suffix in ('_test', '_val'))
    return Dataset(
        images[''],
        labels[''],
        ids,
        *test,
        class_names,
        *val,
        content=_sha256(checksums, ['x']),
        judged_content=_sha256(checksums, ['x_val', 'x_test']),
    )


def npz_image_shape(path: Path) -> tuple[int, ...]:
    """[H, W] or [H, W, C] of the images `x`, by the header alone."""
    shapes, _ = _headers(path)
    _check_pairs(path, shapes)
    return shapes['x'][1:]


def pixels_to_uint8(values: np.ndarray) -> np.ndarray:
    """Pixels of any shape: integers of 0 to 255, or floats of 0 to 1.

    Raises:
      ValueError: saying what they are instead.
    """
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError('NaN or infinite pixels')
        most, scale = 1, 255
    elif np.issubdtype(values.dtype, np.integer):
        most, scale = 255, 1
    else:
        raise ValueError(f'pixels of type {values.dtype}; save them as uint8')
    if values.min() < 0 or values.max() > most:
        raise ValueError(
            f'{values.dtype} pixels from {values.min():g} to {values.max():g}, outside 0 to {most}; save '
            'pixels as uint8 of 0 to 255, or as floats of 0 to 1'
        )
    return np.round(values * scale).astype(np.uint8)


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, H, W, C] to [N, size, size, C] as files are, see `read_images`; 0 keeps their size."""
    if not size or images.shape[1:3] == (size, size):
        return images
    resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    # Channel by channel: Pillow takes the last of four for alpha, and knows no other numbers but 1 and 3.
    for i, image in enumerate(images):
        for c in range(image.shape[-1]):
            resized[i, ..., c] = resize_image(Image.fromarray(image[..., c]), size)
    return resized


def open_npy(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an .npy file: shape, whether in Fortran's order, dtype; the values come next."""
    old = np.lib.format.read_magic(file) == (1, 0)
    header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    return header(file)


def reading_npz(path: Path) -> AbstractContextManager[None]:
    """Make whatever fails in the block a UserError that names the file."""
    # A damaged file makes zipfile, zlib and NumPy fail in many ways; Python objects are a ValueError.
    return as_user_error(
        Exception,
        lambda e: f'{path} cannot be read as an .npz file ({reason_of(e)}); write it again with numpy.savez',
    )


def _headers(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
    """Shapes by the headers alone, as arrays may exceed the memory; (CRC-32, bytes) of the images' arrays."""
    shapes, checksums = {}, {}
    with reading_npz(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix('.npy')
            with archive.open(info) as file:
                shapes[name] = open_npy(file)[0]
            if name.startswith('x'):
                checksums[name] = info.CRC, info.file_size
    return shapes, checksums


def _sha256(checksums: dict[str, tuple[int, int]], names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([checksums.get(name) for name in names]).encode()).hexdigest()


def _check_names(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    unknown = sorted(shapes.keys() - {*ARRAYS})
    # Without x and y, `_check_pairs` says what is missing.
    if unknown and 'x' in shapes and 'y' in shapes:
        near = difflib.get_close_matches(unknown[0], ARRAYS, 1)
        advice = f" (did you mean '{near[0]}'?)" if near and near[0] not in shapes else ''
        raise UserError(
            f'{path} holds {first_ten(unknown)}, which means nothing here{advice}; the arrays are '
            f'{", ".join(ARRAYS)}: save the others elsewhere'
        )


def channels_first(name: str, shape: Sequence[int]) -> str:
    """What to say of `name` if [N, a, b, c] can only mean [N, C, H, W], as PyTorch has images; else ''."""
    if len(shape) != 4 or not shape[1] <= 4 < min(shape[2:]):
        return ''
    looks = f'{name} of shape {list(shape)} looks like [N, C, H, W], and images are [N, H, W, C]'
    return f'{looks}; use {name}.transpose(0, 2, 3, 1)'


def _check_pairs(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    for suffix in SUFFIXES:
        x, y = f'x{suffix}', f'y{suffix}'
        if (x in shapes) != (y in shapes) or (not suffix and x not in shapes):
            raise UserError(f'{path} needs both {x} and {y}; it holds {", ".join(shapes) or "nothing"}')
        if x not in shapes:
            continue
        if len(shapes[x]) not in (3, 4) or min(shapes[x]) < 1:
            raise UserError(
                f'{path}: {x} must be images [N, H, W] or [N, H, W, C], its shape is {list(shapes[x])}'
            )
        if fault := channels_first(x, shapes[x]):
            raise UserError(f'{path}: {fault}')
        if shapes[y] != shapes[x][:1]:
            raise UserError(
                f'{path}: {x} holds {shapes[x][0]:,} images, so {y} must be [{shapes[x][0]}] labels; '
                f'its shape is {list(shapes[y])}'
            )


def _check_memory(
    path: Path, shapes: dict[str, tuple[int, ...]], image_size: int, memory_budget: int
) -> None:
    count = sum(shapes[f'x{suffix}'][0] for suffix in SUFFIXES if f'x{suffix}' in shapes)
    side = (image_size, image_size) if image_size else shapes['x'][1:3]
    shape = (count, *side, *(shapes['x'][3:] or (1,)))
    needed = math.prod(shape)
    if needed > memory_budget:
        raise UserError(
            f'{path}: {count:,} images of {"×".join(map(str, shape[1:]))} take {needed:,} bytes, more than '
            f'data.memory_budget={memory_budget:,}, and an .npz file is read into memory whole; save them as '
            'image files, which are streamed from disk, or use a larger data.memory_budget='
        )


def _pixels(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """`values` as uint8 [N, H, W, C]."""
    if values.ndim == 3:
        values = values[..., None]
    if np.issubdtype(values.dtype, np.floating):
        not_finite = ~np.isfinite(values).all(axis=(1, 2, 3))
        if not_finite.any():
            raise UserError(
                f'{path}: {name} holds NaN or infinite pixels in {not_finite.sum():,} images, the first at '
                f'position {not_finite.argmax()}'
            )
    with as_user_error(ValueError, lambda error: f'{path}: {name} holds {error}'):
        return pixels_to_uint8(values)


def _labels(path: Path, name: str, labels: np.ndarray, *, count: int) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f'{path}: {name} must be integers, it is of type {labels.dtype}')
    least = -1 if name == 'y' else 0
    if labels.min() < least:
        raise UserError(f'{path}: {name} holds the label {labels.min()}; the lowest is {least}')
    # Before they become 32 bits wide, which would make small labels of large ones.
    if labels.max() >= count:
        raise UserError(
            f'{path}: {name} holds the label {labels.max()}, and the {count:,} images of x have as many '
            'classes at most; labels are 0 to K - 1'
        )
    return labels.astype(np.int32)


def _class_names(path: Path, given: np.ndarray | None, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    highest = max(int(values.max()) for values in labels.values())
    if given is not None and (given.ndim != 1 or highest >= len(given)):
        raise UserError(
            f'{path}: the label {highest} is outside class_names, which is of shape {list(given.shape)}'
        )
    names = [str(k) for k in range(highest + 1)] if given is None else [str(name) for name in given]
    if len(set(names)) < len(names):
        raise UserError(f'{path}: class_names holds a name twice')
    absent = sorted({*range(len(names))} - {*labels[''].tolist()})
    if absent:
        raise UserError(
            f'{path}: no image of x is labeled {first_ten([str(k) for k in absent])} in y, and every class '
            f'of 0 to {len(names) - 1} needs one'
        )
    if len(names) < 2:
        raise UserError(
            f'{path}: training needs labeled images of two classes or more, not {len(names)}; '
            'label some of each class in y'
        )
    return tuple(names)
