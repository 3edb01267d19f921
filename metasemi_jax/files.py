"""Files and folders: written all or nothing, probed before the work begins, locked by one process."""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from metasemi_jax.command.signals import removed_at_end
from metasemi_jax.errors import UserError, as_user_error, reason_of

_LONGEST_NAME = 50  # characters of a file's name that its temporary neighbour repeats


def write_json(path: Path, value: Any) -> None:
    """Write `value`, indented, all or nothing."""
    write_atomically(path, json.dumps(value, indent=2) + '\n')


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file by `open_atomically`; text in UTF-8."""
    with open_atomically(path, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomically(path: Path, mode: str = 'w', **options: Any) -> Iterator[IO]:
    """A file that takes the place of `path` at the end of the block; text is in UTF-8.

    A block that fails leaves the old file as it was and nothing beside it. A link stays: the file it leads
    to is replaced. A device, a pipe or an open descriptor (/dev/stdout) cannot be replaced: the block writes
    into it directly.
    """
    if 'b' not in mode:
        options = {'encoding': 'utf-8'} | options
    if not is_replaceable(path):
        with path.open(mode, **options) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # The process id: two processes that write the same file must not share the temporary one.
    beside = target.with_name(f'.{target.name[:_LONGEST_NAME]}.{os.getpid()}.tmp')
    try:
        with removed_at_end(beside), beside.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def is_replaceable(path: Path) -> bool:
    """Whether another file may take the place of `path`: it is a regular file, or nothing is there.

    Raises:
      OSError: nobody can say, as for a loop of links or a folder that may not be read.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
    return regular and not _names_descriptor(path)


def _names_descriptor(path: Path) -> bool:
    # /dev/stdout leads to /proc/self/fd/1, and that to a regular file after `> file` in a shell: whoever
    # replaces the file writes past the shell.
    while not os.path.realpath(path.parent).startswith('/proc/'):
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return True


@contextlib.contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end of the block; a block that fails leaves nothing.

    Args:
      path: does not exist, or is an empty folder. A link stays.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f'.{path.name[:_LONGEST_NAME]}.incomplete')
    # A killed process may have left it.
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.replace(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_writable(folder: Path, called: str, advice: str = 'name another folder') -> None:
    """Refuse a folder that cannot be made, or takes no files; writes nothing that stays.

    Args:
      called: the folder as the user named it, with which the message begins: 'workdir=runs/a'.
      advice: what to do, with which the message ends.
    """
    # A link that leads nowhere exists too, as something in the way.
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists() or p.is_symlink())
    if not nearest.is_dir():
        raise UserError(f'{called}: {nearest} is a file; {advice}')
    unwritten = f'{called}: {nearest} cannot be written'
    with as_user_error(OSError, lambda error: f'{unwritten} ({reason_of(error)}); {advice}'):
        tempfile.TemporaryFile(dir=nearest).close()


@contextlib.contextmanager
def lock(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, which is made and stays; the system lifts the lock of a killed process.

    Args:
      path: the lock file; a missing folder is made.
      waiting: called once if another process holds the lock, which is then waited for unless this raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Append mode keeps the contents of the file, or of the target of a link.
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_closed_streams() -> None:
    """Give a process that was started with `>&-` or `2>&-` streams that swallow what is printed.

    Python has no sys.stdout then, and the next file that is opened gets the descriptor 1: what a library
    prints would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Read-only: a write to this descriptor (`--output=-`) must fail.
            os.open(os.devnull, os.O_RDONLY)
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            # Open for as long as the process lives.
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115


def user_cache(name: str) -> Path:
    """The folder `name` below ~/.cache/metasemi_jax, or below $XDG_CACHE_HOME/metasemi_jax; not made here.

    Programs keep there what they could make again.
    """
    caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(caches, 'metasemi_jax', name)
