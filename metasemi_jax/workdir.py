"""The files of a run: settings, split, class names, form of the images, figures, checkpoints."""

import copy
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from metasemi_jax.config import completed, differing_fields, flatten
from metasemi_jax.data.dataset import InputForm
from metasemi_jax.data.splits import split_text
from metasemi_jax.errors import UserError

# What `describe` lists is written again by each start of a run, and by that of a finished one that lacks it.
REWRITE = 'start the command that trained this run again: it writes the file, and trains no finished run anew'


class Workdir:
    """Paths and small files of one run. Making the object writes nothing; `create` does."""

    def __init__(self, path: str | os.PathLike):
        # Absolute: Orbax refuses a relative path, and only when it first saves.
        self.path = Path(path).absolute()
        self.config = self.path / 'config.json'
        self.labeled_ids = self.path / 'labeled_ids.txt'
        self.validation_ids = self.path / 'validation_ids.txt'
        self.class_names = self.path / 'class_names.json'
        self.input_form = self.path / 'input.json'
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

    def with_choices_of_run(self, config: Any) -> Any:
        """`config` with what its recipe chose when this run began, where it is open; a new run's as it is."""
        if config.get('recipe') != 'auto' or not self.config.exists():
            return config
        there, fields = flatten(completed(read_json(self.config))), flatten(config)
        open_fields = {name: there.get(name) for name, value in fields.items() if value is None}
        config = copy.deepcopy(config)
        config.update_from_flattened_dict(open_fields | {'recipe': there['recipe']})
        return config

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

    def create(
        self,
        config: Any,
        labeled_ids: list[str],
        *,
        validation_ids: Sequence[str] = (),
        class_names: Sequence[str] = (),
        input_form: InputForm | None = None,
    ) -> None:
        """Write the files that describe the run, none for what is empty; the folder is `lock`ed."""
        # Before labeled_ids.txt: a run that finds that one draws no split.
        if validation_ids:
            write_atomically(self.validation_ids, split_text(validation_ids))
        if class_names:
            write_json(self.class_names, list(class_names))
        if input_form:
            write_json(self.input_form, input_form._asdict())
        write_atomically(self.labeled_ids, split_text(labeled_ids))
        write_json(self.config, config.to_dict())

    def check_shared(self, *, seconds: float = 60) -> None:
        """Refuse a folder that is another one on the first host, which has `create`d it.

        Args:
          seconds: to wait, since a network file system may show new files late.

        Raises:
          UserError: the files of the run are not there.
        """
        deadline = time.monotonic() + seconds
        # A listing: the system may remember that the file itself was not there.
        while not (self.path.is_dir() and self.config.name in os.listdir(self.path)):
            if time.monotonic() > deadline:
                raise UserError(
                    f'--workdir={self.path} is not the folder that the first host made; '
                    'name one on a file system that all hosts share'
                )
            time.sleep(0.1)

    def describe(self) -> str:
        """What a finished run left behind, for people."""
        files = {
            self.results.name: 'these figures',
            self.metrics.name: 'every logged figure; also as TensorBoard events',
            f'{self.checkpoints.name}/': 'the latest two and the best',
            self.config.name: 'the settings',
            self.labeled_ids.name: 'which images kept their label',
        }
        if self.validation_ids.exists():
            files[self.validation_ids.name] = 'which labeled images were held out'
        if self.class_names.exists():
            files[self.class_names.name] = 'the classes, in the order of the outputs'
        if self.input_form.exists():
            files[self.input_form.name] = 'shape, mean and deviation of the images'
        return '\n'.join(
            [f'written to {self.path}', *(f'  {name:<18} {what}' for name, what in files.items())]
        )

    def read_labeled_ids(self) -> list[str] | None:
        """The labeled images that this run began with, or None in a new run."""
        return _read_ids(self.labeled_ids) if self.labeled_ids.exists() else None

    def read_validation_ids(self) -> list[str]:
        """The images that this run held out, none in a new run."""
        return _read_ids(self.validation_ids) if self.validation_ids.exists() else []

    def read_class_names(self) -> tuple[str, ...]:
        """The classes in the order of the outputs.

        Raises:
          UserError: the file is missing or damaged.
        """
        return tuple(map(str, self._read_described(self.class_names, list)))

    def read_input_form(self) -> InputForm:
        """What images the run's network takes.

        Raises:
          UserError: the file is missing or damaged.
        """
        value = self._read_described(self.input_form, dict)
        try:
            form = InputForm(*(tuple(value[name]) for name in InputForm._fields))
            if len(form.image_shape) != 3 or {len(form.mean), len(form.std)} != {form.image_shape[-1]}:
                raise ValueError(f'it holds {value}')
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'{self.input_form} is damaged ({error}); {REWRITE}') from error
        return form

    def _read_described(self, path: Path, kind: type) -> Any:
        if not path.exists():
            raise UserError(
                f'{path} is missing, as in runs of older versions and imports without their images; {REWRITE}'
            )
        return read_json(path, kind)

    def read_results(self) -> dict | None:
        """The figures of a finished run, or None."""
        if not self.results.exists():
            return None
        results = read_json(self.results)
        if 'steps' not in results:
            raise UserError(f'{self.results} holds no results; delete it, or name another --workdir')
        return results


def _read_ids(path: Path) -> list[str]:
    return path.read_text(encoding='utf-8').splitlines()


def read_json(path: Path, kind: type = dict) -> Any:
    """Parse a file of ours.

    Raises:
      UserError: it is not JSON, or holds another `kind` of value.
    """
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(value, kind):
            raise ValueError(f'it holds a {type(value).__name__}')
    # JSON's and Unicode's errors are ValueErrors too.
    except ValueError as error:
        raise UserError(f'{path} is damaged ({error}); restore it, or name another --workdir') from error
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value`, readable, all or nothing."""
    write_atomically(path, json.dumps(value, indent=2) + '\n')


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, then rename: a kill or a full disk leaves the old file whole."""
    with open_atomically(path, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def naming_output(output: str | os.PathLike, kind: str = 'file') -> Iterator[None]:
    """Make an OSError of writing what --output names (a `kind`: 'file' or 'folder') a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'--output={output} cannot be written ({error.strerror or error}); name another {kind}'
        ) from error


@contextmanager
def open_atomically(path: Path, mode: str = 'w', **options: Any) -> Iterator[IO]:
    """A file beside `path` to write, in UTF-8 where it is text; renamed at the end of the block.

    A block that fails leaves no trace of it.
    """
    beside = path.with_name(f'.{path.name}.tmp')
    if 'b' not in mode:
        options = {'encoding': 'utf-8'} | options
    try:
        with beside.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
