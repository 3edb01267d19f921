"""`svhn_cropped`, `cifar10` and `cifar100` from TensorFlow Datasets, without TensorFlow.

original archives -> array_record, by TFDS's builders -> decoded arrays, mapped into memory. Each stage is
done once: a later start reads the arrays alone, without importing TFDS.
"""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.counter import ImageCounter
from metasemi_jax.data.paths import user_path
from metasemi_jax.data.sources.array_cache import lock, read_cache, write_cache
from metasemi_jax.data.sources.tfds_decode import decode
from metasemi_jax.data.sources.tfds_prepare import (
    RECIPES,
    archive_splits,
    check_sources,
    prepare,
    stock_builder,
)
from metasemi_jax.data.sources.tfds_store import check_writable, data_root, is_prepared, readable_errors
from metasemi_jax.errors import UserError
from metasemi_jax.progress import ProgressLine, duration

TFDS_DATASETS = tuple(RECIPES)


def load_tfds(name: str, *, data_dir: str = '', manual_dir: str = '') -> Dataset:
    """The dataset that TFDS calls `name`; its first use prepares it, which takes about a minute.

    Args:
      name: one of `TFDS_DATASETS`.
      data_dir: where TFDS keeps prepared datasets; '' for its own default, $TFDS_DATA_DIR or
        ~/tensorflow_datasets. The decoded arrays lie there too, in `metasemi_jax/`.
      manual_dir: folder of the original archives, needed by the first use alone; '' for TFDS's own default,
        `downloads/manual` in `data_dir`, and then a file that is not there is downloaded.

    Returns:
      A dataset ordered by id, its images mapped from the disk (read-only uint8 [N, 32, 32, 3]). An id is the
      image's split and its position in the original archive.

    Raises:
      UserError: an archive missing or damaged, no network, a full disk, a folder that cannot be used. Nothing
        half-written stays.
    """
    root = data_root(data_dir)
    cache = root / 'metasemi_jax' / name / RECIPES[name].version
    with readable_errors(name, root, needed='about 1 GB'):
        arrays, class_names = read_cache(cache) or _build_cache(name, root, cache, manual_dir)
    return Dataset(
        *(arrays[f'train_{kind}'] for kind in ('images', 'labels', 'ids')),
        *(arrays[f'test_{kind}'] for kind in ('images', 'labels')),
        tuple(class_names),
        test_ids=arrays['test_ids'],
    )


def _build_cache(name: str, root: Path, cache: Path, manual_dir: str) -> tuple[dict[str, np.ndarray], Any]:
    folder = user_path(manual_dir).absolute() if manual_dir else root / 'downloads' / 'manual'
    # Before the lock, which is the first thing to be written.
    check_writable(name, cache)
    if not is_prepared(stock_builder(name, root)):
        check_sources(name, root, folder, required=bool(manual_dir))
    with contextlib.closing(ProgressLine()) as line:

        def waiting() -> None:
            line.say(f'{name}: another run is preparing it in {root}; waiting for that one')

        with lock(cache, waiting=waiting):
            # The other run may have made it meanwhile.
            return read_cache(cache) or _prepare_and_decode(name, root, cache, folder, line)


def _prepare_and_decode(
    name: str, root: Path, cache: Path, manual_dir: Path, line: ProgressLine
) -> tuple[dict[str, np.ndarray], Any]:
    start = time.perf_counter()
    # A builder reads what is prepared when it is made: only now nobody else is writing.
    builder = stock_builder(name, root)
    made_here = not is_prepared(builder)
    if made_here:
        line.say(f'{name}: preparing it in {root}, once')
        prepare(builder, manual_dir, archive_splits(ImageCounter(line, f'{name}: prepared')))
    try:
        arrays = decode(builder, ImageCounter(line, f'{name}: decoded'))
    except UserError:
        # What was written a moment ago and cannot be read: the disk is full or failing.
        if made_here:
            shutil.rmtree(builder.data_dir)
        raise
    write_cache(cache, arrays, builder.info.features['label'].names)
    line.say(f'{name}: ready after {duration(time.perf_counter() - start)}, decoded images in {cache}')
    return read_cache(cache)
