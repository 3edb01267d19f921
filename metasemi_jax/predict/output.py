"""The file of `predict`: what it may take the place of, and how a table corrected by hand is kept."""

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from metasemi_jax.command.flags import naming_output
from metasemi_jax.errors import UserError
from metasemi_jax.files import is_replaceable, open_atomically, write_json
from metasemi_jax.workdir.outputs import PREDICTED, check_no_run_file
from metasemi_jax.workdir.reading import read_json

FIRST_COLUMNS = ('path', 'predicted', 'probability')
# What people and scripts write for standard output.
STDOUT = ('-', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1')


def check_output(output: str) -> None:
    """Refuse, before the work, an output that would destroy what `predict` has not written.

    Raises:
      UserError: a folder, a file of a run, or a file with other contents: an image, a list, a program's.
    """
    if output in STDOUT:
        return
    path = Path(output)
    if path.is_dir():
        raise UserError(f'--output={output} is a folder; name a file')
    with naming_output(output):
        if not path.exists() or not is_replaceable(path):
            check_no_run_file(path)
            return
        with path.open('rb') as file:
            start = file.read(100)
    check_no_run_file(path)
    if start and not start.startswith(','.join(FIRST_COLUMNS).encode()):
        raise UserError(f'--output={output} was not written by predict; name another file')


@contextlib.contextmanager
def open_output(output: str, workdir: Path) -> Iterator[IO[str]]:
    """The file to write the rows into; what was there stays until the block ends well.

    A table that was changed since this run's `predict` wrote it, or that another run's did, is kept beside
    the new one, and a line says where.

    Args:
      output: as `check_output` has accepted it.
      workdir: folder of the run; it remembers what was written.
    """
    # A file name may hold bytes that are not UTF-8; they are written as they are.
    options = {'newline': '', 'errors': 'surrogateescape'}
    with naming_output(output):
        if output in STDOUT:
            with os.fdopen(os.dup(1), 'w', encoding='utf-8', **options) as file:
                yield file
            return
        path = Path(output)
        replaceable = is_replaceable(path)
        with open_atomically(path, **options) as file:
            yield file
            if replaceable:
                _keep_changed(path, _written(workdir))
        if replaceable:
            _remember(path, workdir)


def _keep_changed(path: Path, written: dict[str, str]) -> None:
    path = Path(os.path.realpath(path))
    if not path.exists() or not path.stat().st_size or written.get(str(path)) == _sha256(path):
        return
    candidates = (path.with_name(f'{path.stem}.{n}{path.suffix}') for n in itertools.count(1))
    kept = next(candidate for candidate in candidates if not os.path.lexists(candidate))
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links
        shutil.copy2(path, kept)
    print(f'{path} had been changed, or written for another run; it is kept as {kept}')


def _remember(path: Path, workdir: Path) -> None:
    # Who may not write there loses nothing: the next table is kept once more than it had to be.
    with contextlib.suppress(OSError):
        write_json(workdir / PREDICTED, _written(workdir) | {os.path.realpath(path): _sha256(path)})


def _written(workdir: Path) -> dict[str, str]:
    """SHA-256 of the tables that this run's `predict` has written, by their paths."""
    try:
        return read_json(workdir / PREDICTED, '') if (workdir / PREDICTED).exists() else {}
    # Damaged: then every table counts as changed.
    except (UserError, OSError):
        return {}


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
