"""The files of a run: config.json, labeled_ids.txt, metrics.jsonl, results.json, checkpoints/."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasemi_jax.config import differing_fields
from metasemi_jax.data.splits import split_text
from metasemi_jax.errors import UserError


class Workdir:
    """Paths and small files of one run. Making the object writes nothing; `create` does."""

    def __init__(self, path: str | os.PathLike):
        # Absolute: Orbax refuses a relative path, and only when it first saves.
        self.path = Path(path).absolute()
        self.config = self.path / 'config.json'
        self.labeled_ids = self.path / 'labeled_ids.txt'
        self.metrics = self.path / 'metrics.jsonl'
        self.results = self.path / 'results.json'
        self.checkpoints = self.path / 'checkpoints'

    def check(self, config: Any) -> None:
        """Refuse a path that cannot hold this run; writes nothing that stays.

        Raises:
          UserError: a file, a folder that cannot be written, or the run of another config.
        """
        # A link that leads nowhere exists too, as something in the way.
        nearest = next(p for p in (self.path, *self.path.parents) if p.exists() or p.is_symlink())
        if not nearest.is_dir():
            raise UserError(f'--workdir={self.path}: {nearest} is a file; name a folder')
        try:
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError as error:
            raise UserError(
                f'--workdir={self.path}: {nearest} cannot be written ({error.strerror}); name another folder'
            ) from error
        if not self.config.exists():
            if self.results.exists() or self.checkpoints.exists():
                raise UserError(
                    f'--workdir={self.path} holds a run without its config.json; put that back, '
                    'or name another folder'
                )
        elif fields := differing_fields(read_json(self.config), config):
            raise UserError(
                f'--workdir={self.path} holds a run with another config ({"; ".join(fields)}); '
                'name another folder, or use the same settings to continue that run'
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep it to this process; the system lifts the lock of a killed one.

        Raises:
          UserError: another run is in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / '.lock').open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f'--workdir={self.path}: another run is in it; wait for its end, or name another folder'
                ) from error
            yield

    def create(self, config: Any, labeled_ids: list[str]) -> None:
        """Write the two files that describe the run; the folder is `lock`ed."""
        write_atomically(self.labeled_ids, split_text(labeled_ids))
        write_json(self.config, config.to_dict())

    def describe(self) -> str:
        """What a finished run left behind, for people."""
        files = {
            self.results.name: 'these figures',
            self.metrics.name: 'every logged figure; also as TensorBoard events',
            f'{self.checkpoints.name}/': 'the latest two and the best',
            self.config.name: 'the settings',
            self.labeled_ids.name: 'which images kept their label',
        }
        return '\n'.join(
            [f'written to {self.path}', *(f'  {name:<16} {what}' for name, what in files.items())]
        )

    def read_labeled_ids(self) -> list[str] | None:
        """The split that this run began with, or None in a new run."""
        return self.labeled_ids.read_text().splitlines() if self.labeled_ids.exists() else None

    def read_results(self) -> dict | None:
        """The figures of a finished run, or None."""
        if not self.results.exists():
            return None
        results = read_json(self.results)
        if 'steps' not in results:
            raise UserError(f'{self.results} holds no results; delete it, or name another --workdir')
        return results


def read_json(path: Path) -> dict[str, Any]:
    """Parse a file of ours.

    Raises:
      UserError: it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f'it holds a {type(value).__name__}')
    # JSON's and Unicode's errors are ValueErrors too.
    except ValueError as error:
        raise UserError(f'{path} is damaged ({error}); restore it, or name another --workdir') from error
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value`, readable, all or nothing."""
    write_atomically(path, json.dumps(value, indent=2) + '\n')


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path`, then rename: a kill or a full disk leaves the old file whole."""
    beside = path.with_name(f'.{path.name}.tmp')
    with beside.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
