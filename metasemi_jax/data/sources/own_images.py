"""One's own images, from a folder, a CSV file or an .npz file."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metasemi_jax.data.dataset import Dataset, Images
from metasemi_jax.data.images.decode import height_and_width
from metasemi_jax.data.images.files import ImageFiles, check_images, read_images
from metasemi_jax.data.images.parallel import in_threads
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.paths import images_path, user_path
from metasemi_jax.data.sources.image_arrays import load_npz, npz_image_shape
from metasemi_jax.data.sources.image_lists import LISTED_SPLITS, ImageFile, check_ids, list_csv, list_folder
from metasemi_jax.errors import UserError, as_user_error, first_ten, reason_of
from metasemi_jax.progress import ProgressLine

LOOKED_AT = 200  # files whose size is asked for
EVALUATION_SHARE = 32  # of the memory budget
HASHED_BYTES = 1 << 26  # a split with more bytes is identified by the sizes of its files


def load_own_images(
    path: str, *, image_size: int, memory_budget: int, resize: int = 0, on_disk: bool = False
) -> Dataset:
    """The images at `path`, in memory where they fit, else as `StoredImages`.

    A folder is read as `list_folder` says, a file NAME.csv as `list_csv`, NAME.npz as `load_npz`. The ids are
    the files' paths relative to the folder (of the CSV file), or positions in the .npz file. The classes are
    those of the labeled training images, in the order of their names.

    Args:
      image_size: side of the images, in pixels; 0 keeps the size of an .npz file's.
      memory_budget: bytes that the images may take, counted in colour. Files that take more stay on disk;
        their test and validation images are in memory even so, where these take at most a 32nd of it.
      resize: the shorter side of an image before its middle square is cut; 0 for `image_size`.
      on_disk: leave files on disk even if they would fit.

    Raises:
      UserError: naming what is wrong with the images, all of it where many may be.
    """
    if not path:
        raise UserError('name your images with data.path=: a folder, a .csv or an .npz file')
    source = images_path(path)
    is_csv = source.suffix.lower() == '.csv'
    unread = as_user_error(OSError, lambda e: f'{e.filename or source} cannot be read ({reason_of(e)})')
    with unread:
        if source.is_dir() or is_csv:
            listed, left_out = list_folder(source) if source.is_dir() else list_csv(source)
            if not image_size:
                raise UserError('data.image_size=0: image files need a size, since theirs may differ')
            check_ids(str(source), [file.id for file in listed])
            class_names = _class_names(source, listed)
            if left_out:
                ProgressLine().say(left_out)
            in_order = sorted(listed, key=lambda file: LISTED_SPLITS.index(file.split))
            files = ImageFiles(source.parent if is_csv else source, [file.id for file in in_order])
            if on_disk or len(files) * image_size**2 * 3 > memory_budget:
                colour = check_images(files, source=str(source))
                images = StoredImages(files, len(files), image_size, colour=colour, resize=resize)
            else:
                images = read_images(files, image_size, source=str(source))
            dataset = _dataset(class_names, in_order, images, memory_budget // EVALUATION_SHARE)
            content, judged = (_content(files, in_order, s) for s in (LISTED_SPLITS[:1], LISTED_SPLITS[1:]))
            return dataset._replace(content=content, judged_content=judged)
        if source.suffix.lower() == '.npz':
            return load_npz(source, image_size=image_size, memory_budget=memory_budget)
    raise UserError(
        f'{path} is neither a folder nor a .csv or .npz file; docs/own_images.md describes the three'
    )


def image_sides(path: str) -> list[tuple[int, int]]:
    """Height and width of the images at `path`: of an .npz file's one, of image files `LOOKED_AT` at most.

    Unreadable images are left out; `load_own_images` reports them.
    """
    source = user_path(path)
    with contextlib.suppress(UserError, OSError):
        if source.suffix.lower() == '.npz' and source.is_file():
            return [npz_image_shape(source)[:2]]
        files, _ = list_folder(source) if source.is_dir() else list_csv(source)
        folder = source if source.is_dir() else source.parent
        sides = in_threads(_sides, [folder / file.id for file in files[:: 1 + len(files) // LOOKED_AT]])
        return [pair for pair in sides if pair is not None]
    return []


def _sides(file: Path) -> tuple[int, int] | None:
    try:
        return height_and_width(file)
    # Pillow fails on damaged files with SyntaxError, struct.error and others.
    except Exception:
        return None


def _dataset(
    class_names: tuple[str, ...], files: list[ImageFile], images: Images, evaluation_budget: int
) -> Dataset:
    """`files` and their `images` in the order of `LISTED_SPLITS`."""
    index = {name: i for i, name in enumerate(class_names)} | {'': -1}
    labels = np.array([index[file.label] for file in files], np.int32)
    ids = [file.id for file in files if file.split == 'train']
    num_val = sum(file.split == 'val' for file in files)
    # Views of one array: a copy could take as much memory again.
    train, val, test = (
        (images[part], labels[part])
        for part in (
            slice(len(ids)),
            slice(len(ids), len(ids) + num_val),
            slice(len(ids) + num_val, None),
        )
    )
    if np.prod(images.shape[1:]) * (len(val[0]) + len(test[0])) <= evaluation_budget:
        # In memory: every evaluation reads them again.
        val, test = ((np.asarray(pixels), known) for pixels, known in (val, test))
    return Dataset(
        *train,
        np.array(ids),
        *(test if len(test[0]) else (None, None)),
        class_names,
        *(val if len(val[0]) else (None, None)),
        test_ids=np.array([file.id for file in files if file.split == 'test']),
        val_ids=np.array([file.id for file in files if file.split == 'val']),
    )


def _content(files: ImageFiles, listed: list[ImageFile], splits: Sequence[str]) -> str:
    """SHA-256, in hex, of the files of `splits`: of their bytes if few, of their sizes otherwise."""
    digest = hashlib.sha256()
    for split in splits:
        chosen = sorted((file.id, i) for i, file in enumerate(listed) if file.split == split)
        sizes = [os.stat(files.path(i)).st_size for _, i in chosen]
        digest.update(f'{split} {sizes}'.encode())
        if sum(sizes) <= HASHED_BYTES:
            for _, i in chosen:
                with files.open(i) as file:
                    digest.update(file.read())
    return digest.hexdigest()


def _class_names(source: Path, files: list[ImageFile]) -> tuple[str, ...]:
    names = sorted({file.label for file in files if file.split == 'train' and file.label})
    if len(names) < 2:
        raise UserError(
            f'{source}: training needs labeled images of two classes or more, not {len(names)}; '
            'label some of each class'
        )
    outside = sorted({file.label for file in files if file.label} - {*names})
    if outside:
        raise UserError(
            f'{source}: no labeled training image is of the class {first_ten(outside)}, which test or '
            f'validation images have; label one, or rename the class to one of {first_ten(names)}'
        )
    return tuple(names)
