"""`imagenet2012` from TensorFlow Datasets, without TensorFlow: prepared once, then read from disk.

original tar files -> array_record, by TFDS's builder -> an index of file names and labels. The images stay
in the array_record files and are decoded when they are needed.
"""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sources.array_cache import read_cache, write_cache
from metasemi_jax.data.sources.image_records import ImageRecords, index_records
from metasemi_jax.data.sources.imagenet_archives import ARCHIVES, check_archives, imagenet_splits
from metasemi_jax.data.sources.tfds_prepare import prepare
from metasemi_jax.data.sources.tfds_store import (
    data_root,
    is_prepared,
    made_once,
    manual_folder,
    readable_errors,
)
from metasemi_jax.errors import UserError
from metasemi_jax.files import check_writable
from metasemi_jax.progress import ImageCounter, ProgressLine, duration

NAME = 'imagenet2012'
VERSION = '5.1.0'
TFDS_SPLITS = ('train', 'validation')


def load_imagenet(*, data_dir: str = '', manual_dir: str = '', image_size: int, resize: int = 0) -> Dataset:
    """ImageNet's training images, and its validation images to test on; the first use prepares them.

    Args:
      data_dir: folder of prepared TFDS datasets; '' for TFDS's own default.
      manual_dir: folder of the two tar files, needed by the first use alone; '' for TFDS's own default,
        `downloads/manual` in `data_dir`.
      image_size, resize: arguments of `decode_square`.

    Returns:
      A dataset of `StoredImages`. An id is the name of the file, as 'n01440764_10026.JPEG'.

    Raises:
      UserError: an archive missing or damaged, an image that cannot be decoded, a full disk, a folder that
        cannot be used.
    """
    if not image_size:
        raise UserError('data.image_size=0: ImageNet needs a size, since its images differ')
    root = data_root(data_dir)
    cache = root / 'metasemi_jax' / NAME / VERSION
    with readable_errors(NAME, root, needed='about 300 GB'):
        arrays, class_names = _read_index(cache, root) or _build_index(root, cache, manual_dir)
        builder = _builder(root)
        train, test = (
            StoredImages(records, len(records), image_size, colour=True, resize=resize)
            for records in (ImageRecords(builder, split) for split in TFDS_SPLITS)
        )
    return Dataset(
        train,
        np.asarray(arrays['train_labels']),
        np.asarray(arrays['train_ids']),
        test,
        np.asarray(arrays['validation_labels']),
        tuple(class_names),
    )


def _builder(root: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_cls(NAME)(data_dir=str(root), version=VERSION)


def _read_index(cache: Path, root: Path) -> tuple[dict[str, np.ndarray], Any] | None:
    """The index; None if there is none, or if it is of other files."""
    found = read_cache(cache)
    if found is None:
        return None
    builder = _builder(root)
    if not is_prepared(builder):
        return None
    counts = {split: builder.info.splits[split].num_examples for split in TFDS_SPLITS}
    return found if counts == {split: len(found[0][f'{split}_labels']) for split in TFDS_SPLITS} else None


def _build_index(root: Path, cache: Path, manual_dir: str) -> tuple[dict[str, np.ndarray], Any]:
    folder = manual_folder(root, manual_dir)
    # Before the lock, which is the first thing to be written.
    check_writable(cache, NAME, 'use another folder with data.data_dir=')
    if not is_prepared(_builder(root)):
        check_archives(folder)
    find = functools.partial(_read_index, cache, root)
    return made_once(NAME, root, cache, find, functools.partial(_prepare_and_index, root, cache, folder))


def _prepare_and_index(
    root: Path, cache: Path, folder: Path, line: ProgressLine
) -> tuple[dict[str, np.ndarray], Any]:
    start = time.perf_counter()
    builder = _builder(root)
    if not is_prepared(builder):
        line.say(f'{NAME}: preparing it in {root}, once, from {" and ".join(ARCHIVES)}')
        prepare(builder, folder, imagenet_splits(folder, ImageCounter(line, f'{NAME}: prepared')))
        builder = _builder(root)
    lacking = [split for split in TFDS_SPLITS if split not in builder.info.splits]
    if lacking:
        raise UserError(
            f'{NAME}: {builder.data_dir} lacks the split {lacking[0]}; delete that folder to prepare it '
            'again, or use another one with data.data_dir='
        )
    arrays = index_records(builder, TFDS_SPLITS, ImageCounter(line, f'{NAME}: checked'))
    write_cache(cache, arrays, builder.info.features['label'].names)
    line.say(f'{NAME}: ready after {duration(time.perf_counter() - start)}, file names and labels in {cache}')
    return read_cache(cache)
