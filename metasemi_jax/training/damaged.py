"""Checkpoints that cannot be read: those that this process may not read, and those that are moved aside."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from metasemi_jax.errors import as_user_error, reason_of


def check_readable(folder: Path) -> None:
    """Refuse checkpoints that this process has no permission to read; they may be whole.

    Args:
      folder: the checkpoints folder. What a run is about to write or to delete there is left out.
    """
    if not folder.exists():
        return
    advice = 'nothing was moved or lost: mend that, or start as the user who trained this run'
    with as_user_error(
        OSError, lambda error: f'{error.filename or folder} cannot be read ({reason_of(error)}); {advice}'
    ):
        for step in folder.iterdir():
            for path in _files_below(step) if step.name.isdecimal() else ():
                with contextlib.suppress(FileNotFoundError):
                    path.open('rb').close()


def _files_below(folder: Path) -> Iterator[Path]:
    # `rglob` passes over a folder that it may not list.
    def listed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=listed):
        yield from (Path(parent, name) for name in names)


def damaged_folder(folder: Path) -> Path:
    """Folder that keeps the damaged checkpoints of `folder`."""
    return folder.with_name(f'damaged_{folder.name}')


def set_aside(folder: Path, step: int) -> Path:
    """Move the damaged checkpoint of `step` out of the run's way; returns its new place. Deletes nothing."""
    aside = damaged_folder(folder)
    target = next(path for n in itertools.count() if not (path := aside / f'{step}.{n}').exists())
    aside.mkdir(exist_ok=True)
    return (folder / str(step)).rename(target)
