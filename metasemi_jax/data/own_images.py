"""One's own images, from a folder, a CSV file or an .npz file."""

from pathlib import Path

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.image_arrays import load_npz
from metasemi_jax.data.image_files import first_ten, read_images
from metasemi_jax.data.image_lists import ImageFile, check_ids, list_csv, list_folder
from metasemi_jax.errors import UserError


def load_own_images(path: str, *, image_size: int, memory_budget: int) -> Dataset:
    """The images at `path`, in memory.

    A folder is read as `list_folder` says, a file NAME.csv as `list_csv`, NAME.npz as `load_npz`. The ids are
    the files' paths relative to the folder (of the CSV file), or positions in the .npz file. The classes are
    those of the labeled training images, in the order of their names.

    Args:
      path: of the folder or file.
      image_size: side of the images, in pixels; 0 keeps the size of an .npz file's.
      memory_budget: bytes that the images may take.

    Raises:
      UserError: naming what is wrong with the images, all of it where many may be.
    """
    if not path:
        raise UserError('name your images with --config.data.path=: a folder, a .csv or an .npz file')
    source = Path(path).expanduser()
    if not source.exists():
        raise UserError(f'--config.data.path={path}: there is no such folder or file')
    try:
        if source.is_dir():
            return _load_files(source, list_folder(source), image_size, memory_budget)
        if source.suffix.lower() == '.csv':
            return _load_files(source, list_csv(source), image_size, memory_budget)
        if source.suffix.lower() == '.npz':
            return load_npz(source, image_size=image_size, memory_budget=memory_budget)
    except OSError as error:
        raise UserError(f'{error.filename or source} cannot be read ({error.strerror or error})') from error
    raise UserError(f'--config.data.path={path} is neither a folder nor a .csv or .npz file')


def _load_files(source: Path, files: list[ImageFile], image_size: int, memory_budget: int) -> Dataset:
    if not image_size:
        raise UserError('data.image_size=0: image files need a size, since theirs may differ')
    check_ids(str(source), [file.id for file in files])
    class_names = _class_names(source, files)
    splits = {name: [file for file in files if file.split == name] for name in ('train', 'val', 'test')}
    in_order = [file for split in splits.values() for file in split]
    images = read_images(
        [file.path for file in in_order],
        [file.id for file in in_order],
        image_size,
        memory_budget=memory_budget,
        source=str(source),
    )
    index = {name: i for i, name in enumerate(class_names)} | {'': -1}
    labels = np.array([index[file.label] for file in in_order], np.int32)
    # Views of one array: a copy could take as much memory again.
    ends = np.cumsum([len(split) for split in splits.values()])
    (train, val, test) = zip(np.split(images, ends[:-1]), np.split(labels, ends[:-1]), strict=True)
    return Dataset(
        *train,
        np.array([file.id for file in splits['train']]),
        *(test if splits['test'] else (None, None)),
        class_names,
        *(val if splits['val'] else (None, None)),
        test_ids=np.array([file.id for file in splits['test']]),
        val_ids=np.array([file.id for file in splits['val']]),
    )


def _class_names(source: Path, files: list[ImageFile]) -> tuple[str, ...]:
    names = sorted({file.label for file in files if file.split == 'train' and file.label})
    if len(names) < 2:
        raise UserError(f'{source}: training needs labeled images of two classes or more, not {len(names)}')
    outside = sorted({file.label for file in files if file.label} - {*names})
    if outside:
        raise UserError(
            f'{source}: no labeled training image is of the class {first_ten(outside)}, which test or '
            f'validation images have; the classes are {first_ten(names)}'
        )
    return tuple(names)
