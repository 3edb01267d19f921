"""The folder of TFDS's prepared datasets, and its errors."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from metasemi_jax.data.paths import user_path
from metasemi_jax.data.sources.tfds_workarounds import DISK_FULL
from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.files import lock
from metasemi_jax.progress import ProgressLine


def data_root(data_dir: str) -> Path:
    """`data_dir`, or where TFDS keeps its data by default, absolute and without importing TFDS."""
    folder = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    return user_path(folder).absolute()


def manual_folder(root: Path, manual_dir: str) -> Path:
    """Folder of files that the user has put there: `manual_dir`, by default TFDS's own below `root`."""
    return user_path(manual_dir).absolute() if manual_dir else root / 'downloads' / 'manual'


def is_prepared(builder: Any) -> bool:
    """Whether the folder of TFDS's `builder` holds array_record files; refuses what it holds otherwise."""
    if not builder.data_path.exists():
        return False
    formats = [file_format.value for file_format in builder.info.available_file_formats()]
    if not builder.is_prepared() or 'array_record' not in formats:
        raise UserError(
            f'{builder.name}: {builder.data_dir} holds no array_record files '
            f'({", ".join(formats) or "no dataset_info.json"}), and reading others needs TensorFlow; '
            'delete that folder, or use another one with data.data_dir='
        )
    return True


def readable_errors(name: str, root: Path, *, needed: str) -> AbstractContextManager[None]:
    """Make the system's errors a UserError; `needed`: bytes, for people, that preparing takes."""

    def message(error: OSError) -> str:
        if error.errno in DISK_FULL:
            return (
                f'{name}: {root} has no room ({reason_of(error)}); it needs {needed} while it is prepared: '
                'make room, or use another folder with data.data_dir='
            )
        return (
            f'{name}: {error.filename or root} cannot be used ({reason_of(error)}); check its permissions, '
            'or name other folders with data.data_dir= and data.manual_dir='
        )

    return as_user_error(OSError, message)


def made_once(
    name: str, root: Path, folder: Path, find: Callable[[], Any], make: Callable[[ProgressLine], Any]
) -> Any:
    """What `make` writes into `folder`, or `find` finds there when another run that makes it has finished."""
    with contextlib.closing(ProgressLine()) as line:

        def waiting() -> None:
            line.say(f'{name}: another run is preparing it in {root}; waiting for that one')

        with lock(folder.with_name(f'{folder.name}.lock'), waiting=waiting):
            return find() or make(line)
