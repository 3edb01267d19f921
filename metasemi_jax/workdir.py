"""The files of a run: settings, split, class names, form of the images, results, checkpoints.

Every file that people may have edited, or a copy cut short, is read here by one function that checks it. What
is wrong is named by file and field, with the way to get the file back.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metasemi_jax import files
from metasemi_jax.config.checks import check_saved
from metasemi_jax.config.fields import OF_WEIGHTS
from metasemi_jax.config.form import completed, differing_fields, flatten, only_longer, with_fields
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.splits import Split, split_sha256, split_text
from metasemi_jax.errors import UserError
from metasemi_jax.results import check_results

# Each start of a run writes what `create` writes; for a finished run it trains nothing.
REWRITE = 'start the command that trained this run again: it writes the file, and trains no finished run anew'
RESTORE = 'no command can write it again: put back a copy, or use another workdir'
REDRAW = (
    'delete labeled_ids.txt and validation_ids.txt, and start the command that trained this run again: it '
    'draws the same split'
)
LOG = 'log.txt'  # what a run of a sweep has printed
PREDICTED = '.predictions.json'  # which files `predict` has written, and their contents' hashes
LONGEST_SIDE = 2**16  # pixels
LARGEST = 1e30  # of a mean or deviation; float32 goes a little further
KEPT = {
    '.lock',
    LOG,
    PREDICTED,
    'config.json',
    'time_budget.json',
    'labeled_ids.txt',
    'validation_ids.txt',
    'class_names.json',
    'input.json',
    'images.npz',
    'metrics.jsonl',
    'results.json',
    'checkpoints',
    'damaged_checkpoints',
}


class Workdir:
    """Paths and small files of one run. Making the object writes nothing; `create` does.

    Every `read_...` raises a UserError where its file is damaged, or holds what no run writes.
    """

    def __init__(self, path: str | os.PathLike):
        # Absolute: Orbax refuses a relative path, and only when it first saves.
        self.path = Path(path).absolute()
        self.config = self.path / 'config.json'
        self.labeled_ids = self.path / 'labeled_ids.txt'
        self.validation_ids = self.path / 'validation_ids.txt'
        self.class_names = self.path / 'class_names.json'
        self.input_spec = self.path / 'input.json'
        self.images = self.path / 'images.npz'  # of a fit in memory, which lie nowhere else
        self.time_budget = self.path / 'time_budget.json'
        self.metrics = self.path / 'metrics.jsonl'
        self.results = self.path / 'results.json'
        self.checkpoints = self.path / 'checkpoints'
        self.damaged_checkpoints = self.path / 'damaged_checkpoints'

    def check(self, config: Any) -> None:
        """Refuse a path that cannot hold this run; writes nothing that stays.

        A run that was stopped before its first checkpoint may begin anew with another config.

        Raises:
          UserError: a file, a folder that cannot be written, or the run of another config.
        """
        try:
            files.check_writable(self.path)
        except NotADirectoryError as error:
            raise UserError(f'workdir={self.path}: {error.filename} is a file; name a folder') from error
        except OSError as error:
            raise UserError(
                f'workdir={self.path}: {error.filename} cannot be written ({error.strerror}); '
                'name another folder'
            ) from error
        if not self.config.exists():
            if self.results.exists() or self.checkpoints.exists():
                raise UserError(
                    f'workdir={self.path} holds a run without its config.json; put that back, '
                    'or name another folder'
                )
        elif self.is_trained() and (fields := differing_fields(begun := self.read_config(), config)):
            if only_longer(begun, config):
                return
            raise UserError(
                f'workdir={self.path} holds a run with another config ({"; ".join(fields)}); '
                'name another folder, or use the same settings to continue that run; to begin a new run with '
                f'its weights, add model.init_from={self.path}'
            )

    def with_choices_of_run(self, config: Any) -> Any:
        """`config` with what its recipe, and published weights, chose when this run began, where it is open.

        A run that is new, or has trained nothing, chooses anew: it may have other settings or images.
        """
        fields = flatten(config)
        by_recipe, by_weights = fields.get('recipe') == 'auto', bool(fields.get('model.init_from'))
        if not (by_recipe or by_weights) or not self.config.exists() or not self.is_trained():
            return config
        there, chosen = flatten(completed(self.read_config())), {}
        if by_recipe:
            chosen = {name: there.get(name) for name, value in fields.items() if value is None}
            chosen['recipe'] = there['recipe']
        if by_weights and there['model.init_from'] == fields['model.init_from']:
            chosen |= {name: there.get(name) for name in OF_WEIGHTS if fields.get(name) in (None, [])}
        return with_fields(config, chosen)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep it to this process; the system lifts the lock of a killed one.

        A block that fails before it has written anything leaves no folder behind.

        Raises:
          UserError: another run is in it.
        """
        absent = next((path for path in (*self.path.parents[::-1], self.path) if not path.exists()), None)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(self.path / '.lock'))
            except BlockingIOError as error:
                raise UserError(
                    f'workdir={self.path}: another run is in it; wait for its end, or name another folder'
                ) from error
            try:
                yield
            except BaseException:
                if absent and os.listdir(self.path) == ['.lock']:
                    self._remove_lock(absent)
                raise

    def _remove_lock(self, absent: Path) -> None:
        (self.path / '.lock').unlink()
        # Parents that this process made, unless others have put something into them.
        with contextlib.suppress(OSError):
            for path in (self.path, *self.path.parents):
                path.rmdir()
                if path == absent:
                    break

    def create(
        self,
        config: Any,
        labeled_ids: list[str],
        *,
        validation_ids: Sequence[str] = (),
        class_names: Sequence[str] = (),
        input_spec: InputSpec | None = None,
    ) -> None:
        """Write the files that describe the run, none for what is empty; the folder is `lock`ed."""
        # Before labeled_ids.txt: a run that finds that one draws no split.
        if validation_ids:
            files.write_atomically(self.validation_ids, split_text(validation_ids))
        else:
            # An earlier start, with other settings, has left this file and trained nothing.
            self.validation_ids.unlink(missing_ok=True)
        if class_names:
            files.write_json(self.class_names, list(class_names))
        if input_spec:
            files.write_json(self.input_spec, input_spec._asdict())
        files.write_atomically(self.labeled_ids, split_text(labeled_ids))
        files.write_json(self.config, config.to_dict())

    def check_shared(self, *, seconds: float = 60) -> None:
        """Refuse a folder that is another one on the first host, which has `create`d it.

        Args:
          seconds: how long to wait, since a network file system may show new files late.

        Raises:
          UserError: the files of the run are not there.
        """
        deadline = time.monotonic() + seconds
        # Listed, not tested: a network file system may remember that the file was missing.
        while not (self.path.is_dir() and self.config.name in os.listdir(self.path)):
            if time.monotonic() > deadline:
                raise UserError(
                    f'workdir={self.path} is not the folder that the first host made; '
                    'name one on a file system that all hosts share'
                )
            time.sleep(0.1)

    def describe(self) -> str:
        """The files of a finished run, as lines for people."""
        described = {
            self.results.name: 'these metrics',
            self.metrics.name: 'every logged metric; also as TensorBoard events',
            f'{self.checkpoints.name}/': 'the latest two and the best',
            self.config.name: 'the settings',
            self.labeled_ids.name: 'which images kept their label',
        }
        if self.validation_ids.exists():
            described[self.validation_ids.name] = 'which labeled images were held out'
        if self.class_names.exists():
            described[self.class_names.name] = 'the classes, in the order of the outputs'
        if self.input_spec.exists():
            described[self.input_spec.name] = 'shape, mean and deviation of the images'
        return '\n'.join(
            [f'written to {self.path}', *(f'  {name:<18} {what}' for name, what in described.items())]
        )

    def saved_steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        # Orbax gives a checkpoint its number when it is complete.
        saved = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted(int(path.name) for path in saved if path.name.isdecimal())

    def is_trained(self) -> bool:
        """Whether the run has checkpoints, damaged ones included."""
        return self.results.exists() or self.damaged_checkpoints.exists() or bool(self.saved_steps())

    def is_described(self) -> bool:
        """Whether all files that `create` writes for other commands can be read."""
        try:
            self.read_class_names()
            self.read_input_spec()
        except UserError:
            return False
        return self.labeled_ids.exists()

    def read_config(self) -> dict[str, Any]:
        """The settings, nested as in the file, of whatever version."""
        config = read_json(self.config, RESTORE)
        with naming(self.config, RESTORE):
            check_saved(config)
        return config

    def read_labeled_ids(self) -> list[str] | None:
        """The labeled images that this run began with, or None in a new run."""
        return _read_ids(self.labeled_ids) if self.labeled_ids.exists() else None

    def read_validation_ids(self) -> list[str]:
        """The images that this run held out, none in a new run."""
        return _read_ids(self.validation_ids) if self.validation_ids.exists() else []

    def read_split(self, sha256: str | None = None) -> Split | None:
        """The images that this run began with, labeled and held out, or None in a new run.

        Args:
          sha256: SHA-256 of the labeled ids in a checkpoint or `results.json`; None compares nothing.

        Raises:
          UserError: a file is damaged, or names other images than those of `sha256`.
        """
        labeled = self.read_labeled_ids()
        if labeled is None:
            return None
        if sha256 not in (None, split_sha256(labeled)):
            raise UserError(
                f'{self.labeled_ids} is not the split that this run was trained on; put the old file back, '
                f'or {REDRAW}'
            )
        return Split(labeled, self.read_validation_ids())

    def begun_split(self, config: Any) -> Split | None:
        """The split to go on with under `config`; None where it is to be drawn.

        That is so in a new run, and in one that was begun with another config and has trained nothing.
        """
        if self.config.exists() and not self.is_trained():
            try:
                if differing_fields(self.read_config(), config):
                    return None
            except UserError:
                return None
        return self.read_split()

    def read_class_names(self) -> tuple[str, ...]:
        """The classes in the order of the outputs."""
        names = self._read_described(self.class_names, list)
        with naming(self.class_names, REWRITE):
            for name in names:
                if not isinstance(name, str) or names.count(name) > 1:
                    raise UserError(f'{name!r} must be the name of a class, and of one alone')
            if not names:
                raise UserError('it names no class')
        return tuple(names)

    def read_input_spec(self) -> InputSpec:
        """What images the run's network takes."""
        value = self._read_described(self.input_spec, dict)
        with naming(self.input_spec, REWRITE):
            shape = _numbers(
                value,
                'image_shape',
                lambda side: isinstance(side, int) and 1 <= side <= LONGEST_SIDE,
                f'whole numbers from 1 to {LONGEST_SIDE}',
            )
            if len(shape) != 3:
                raise UserError(f'image_shape={list(shape)} must be height, width and channels')
            mean = _numbers(value, 'mean', lambda x: abs(x) < LARGEST, 'numbers')
            std = _numbers(value, 'std', lambda x: 0 < x < LARGEST, 'numbers more than 0')
            if {len(mean), len(std)} != {shape[-1]}:
                raise UserError(f'mean and std must have a number for each of the {shape[-1]} channels')
        return InputSpec(shape, mean, std)

    def read_results(self) -> dict[str, Any] | None:
        """The metrics of a finished run, or None."""
        if not self.results.exists():
            return None
        remedy = f'delete it, and {REWRITE}'
        results = read_json(self.results, remedy)
        with naming(self.results, remedy):
            check_results(results)
        return results

    def _read_described(self, path: Path, kind: type) -> Any:
        if not path.exists():
            raise UserError(
                f'{path} is missing, as in runs of older versions and imports without their images; {REWRITE}'
            )
        return read_json(path, REWRITE, kind)


def read_json(path: Path, remedy: str = RESTORE, kind: type = dict) -> Any:
    """Parse a file of ours.

    Args:
      remedy: advice for messages: how to get the file back.

    Raises:
      UserError: it cannot be read, is not JSON, or holds another `kind` of value.
    """
    text = _read_text(path, remedy)
    with naming(path, remedy):
        try:
            value = json.loads(text)
        # An int of thousands of digits, or lists nested thousands deep.
        except (ValueError, RecursionError) as error:
            raise UserError(str(error)) from error
        if not isinstance(value, kind):
            raise UserError(f'it holds a {type(value).__name__}')
    return value


@contextlib.contextmanager
def naming(path: Path, remedy: str) -> Iterator[None]:
    """Add the path, and how to restore the file, to a UserError about one of its fields."""
    try:
        yield
    except UserError as error:
        # A value may be of several lines.
        raise UserError(f'{path} is damaged ({" ".join(str(error).split())}); {remedy}') from error


def check_no_run_file(output: str | os.PathLike) -> None:
    """Refuse an `output` in the place of a file that a run or a sweep keeps of itself, there or not yet."""
    path = Path(os.path.realpath(output))
    for folder in path.parents:
        first = path.relative_to(folder).parts[0]
        in_run = (folder / 'config.json').is_file() and (first in KEPT or first.startswith('events.'))
        if in_run or ((folder / 'sweep.json').is_file() and path == folder / 'sweep.json'):
            raise UserError(f'output={output} is a file of the run in {folder}; name another file')


def _read_ids(path: Path) -> list[str]:
    # `splitlines` would split at other characters too, which a file's name may hold.
    ids = [line.removesuffix('\r') for line in _read_text(path, REDRAW).split('\n') if line]
    with naming(path, REDRAW):
        if len({*ids}) < len(ids):
            raise UserError('it names an image twice')
    return ids


def _read_text(path: Path, remedy: str) -> str:
    with naming(path, remedy):
        # Reading a pipe would wait forever.
        if not path.is_file():
            raise UserError('it is no file')
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(str(error)) from error


def _numbers(value: dict[str, Any], name: str, holds: Callable[[Any], bool], must: str) -> tuple[Any, ...]:
    numbers = value.get(name)
    if not isinstance(numbers, list) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) and holds(number)
        for number in numbers
    ):
        raise UserError(f'{name}={numbers!r} must be a list of {must}')
    return tuple(numbers)
