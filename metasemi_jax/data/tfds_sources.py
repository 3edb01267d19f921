"""`svhn_cropped`, `cifar10` and `cifar100` from TensorFlow Datasets, without TensorFlow.

original archives -> array_record, by TFDS's builders -> decoded arrays, mapped into memory. Each stage is
done once: a later start reads the arrays alone, without importing TFDS.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.data.array_cache import lock, read_cache, write_cache
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.image_counter import ImageCounter
from metasemi_jax.data.tfds_decode import decode
from metasemi_jax.data.tfds_prepare import DISK_FULL, RECIPES, check_sources, prepare, stock_builder
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
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    cache = root.absolute() / 'metasemi_jax' / name / RECIPES[name].version
    with _readable_errors(name, root):
        arrays, class_names = read_cache(cache) or _build_cache(name, root.absolute(), cache, manual_dir)
    return Dataset(
        *(arrays[f'train_{kind}'] for kind in ('images', 'labels', 'ids')),
        *(arrays[f'test_{kind}'] for kind in ('images', 'labels')),
        tuple(class_names),
        test_ids=arrays['test_ids'],
    )


def default_data_dir() -> Path:
    """Where TFDS keeps its data, without importing it."""
    return Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def _build_cache(name: str, root: Path, cache: Path, manual_dir: str) -> tuple[dict[str, np.ndarray], Any]:
    folder = Path(manual_dir).expanduser().absolute() if manual_dir else root / 'downloads' / 'manual'
    # Before the lock, which is the first thing to be written.
    _check_writable(name, cache)
    if not _is_prepared(stock_builder(name, root)):
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
    made_here = not _is_prepared(builder)
    if made_here:
        line.say(f'{name}: preparing it in {root}, once')
        prepare(builder, manual_dir, ImageCounter(line, f'{name}: prepared'))
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


def _check_writable(name: str, folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(
            f'{name}: {nearest} cannot be written ({error.strerror}); '
            'use another folder with --config.data.data_dir='
        ) from error


def _is_prepared(builder: Any) -> bool:
    """Whether its folder holds array_record files; refuses what it holds otherwise."""
    if not builder.data_path.exists():
        return False
    formats = [file_format.value for file_format in builder.info.available_file_formats()]
    if not builder.is_prepared() or 'array_record' not in formats:
        raise UserError(
            f'{builder.name}: {builder.data_dir} holds no array_record files '
            f'({", ".join(formats) or "no dataset_info.json"}), and reading others needs TensorFlow; '
            'delete that folder, or use another one with --config.data.data_dir='
        )
    return True


@contextlib.contextmanager
def _readable_errors(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or ' '.join(str(error).split())
        if error.errno in DISK_FULL:
            raise UserError(
                f'{name}: {root} has no room ({reason}); it needs about 1 GB while it is prepared: '
                'make room, or use another folder with --config.data.data_dir='
            ) from error
        raise UserError(
            f'{name}: {error.filename or root} cannot be used ({reason}); check its permissions, '
            'or name other folders with --config.data.data_dir= and --config.data.manual_dir='
        ) from error
