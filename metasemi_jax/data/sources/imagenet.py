"""`imagenet2012`, its images read where they lie: in the original tar files, or in what TFDS made of them.

Either -> an index of file names and labels, made once, for which every image is decoded. Later the images are
decoded when they are needed.
"""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sources.array_cache import read_cache, write_cache
from metasemi_jax.data.sources.imagenet_records import RecordSource
from metasemi_jax.data.sources.imagenet_tars import TarSource
from metasemi_jax.data.sources.tfds_store import data_root, made_once, manual_folder, readable_errors
from metasemi_jax.errors import UserError
from metasemi_jax.files import check_writable
from metasemi_jax.progress import ProgressLine, duration

NAME = 'imagenet2012'
VERSION = '5.1.0'
Source = TarSource | RecordSource


def load_imagenet(*, data_dir: str = '', manual_dir: str = '', image_size: int, resize: int = 0) -> Dataset:
    """ImageNet's training images, and its validation images to test on; the first use indexes them.

    What TFDS has prepared in `data_dir` goes before the tar files. Ids, labels and order are the same.

    Args:
      data_dir: folder of prepared TFDS datasets and of the index; '' for TFDS's own default.
      manual_dir: folder of the two tar files; '' for TFDS's own default, `downloads/manual` in `data_dir`.
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
    with readable_errors(NAME, root, needed='about 150 MB'):
        prepared = (root / NAME / VERSION).exists()
        source = RecordSource(root, NAME, VERSION) if prepared else TarSource(manual_folder(root, manual_dir))
        cache = root / 'metasemi_jax' / NAME / (VERSION if prepared else f'{VERSION}.tars')
        find, make = (functools.partial(function, source, cache) for function in (_read_index, _write_index))
        found = find()
        if found is None:
            # Before the lock, which is the first thing to be written.
            check_writable(cache, NAME, 'use another folder with data.data_dir=')
            found = made_once(NAME, root, cache, find, make)
        arrays, class_names = found
    kinds = ('train_labels', 'train_ids', 'validation_labels')
    labels, ids, test_labels = (np.asarray(arrays[kind]) for kind in kinds)
    train, test = (
        StoredImages(source.images(split, arrays), count, image_size, colour=True, resize=resize)
        for split, count in (('train', len(labels)), ('validation', len(test_labels)))
    )
    return Dataset(train, labels, ids, test, test_labels, tuple(class_names))


def _read_index(source: Source, cache: Path) -> tuple[dict[str, np.ndarray], Any] | None:
    """The index; None if there is none, or if it is of other files."""
    found = read_cache(cache)
    return found if found and source.matches(found[0]) else None


def _write_index(source: Source, cache: Path, line: ProgressLine) -> tuple[dict[str, np.ndarray], Any]:
    start = time.perf_counter()
    again = 'again: they differ, or their times of change do, which copies must keep'
    when = again if read_cache(cache) else 'once'
    line.say(f'{NAME}: indexing the images in {source.place}, {when}')
    write_cache(cache, *source.index(line))
    line.say(f'{NAME}: ready after {duration(time.perf_counter() - start)}, file names and labels in {cache}')
    return read_cache(cache)
