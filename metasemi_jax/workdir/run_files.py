"""The files of a run, and what they hold: settings, split, class names, form of the images, results."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metasemi_jax.config.checks import check_saved
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.splits import Split, split_sha256
from metasemi_jax.errors import UserError
from metasemi_jax.results import check_results
from metasemi_jax.workdir.reading import REDRAW, RESTORE, REWRITE, naming, read_json, read_text

LONGEST_SIDE = 2**16  # pixels
LARGEST = 1e30  # of a mean or deviation; float32 goes a little further


class RunFiles:
    """Paths of one run's files, and their contents.

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


def _read_ids(path: Path) -> list[str]:
    # `splitlines` would split at other characters too, which a file's name may hold.
    ids = [line.removesuffix('\r') for line in read_text(path, REDRAW).split('\n') if line]
    with naming(path, REDRAW):
        if len({*ids}) < len(ids):
            raise UserError('it names an image twice')
    return ids


def _numbers(value: dict[str, Any], name: str, holds: Callable[[Any], bool], must: str) -> tuple[Any, ...]:
    numbers = value.get(name)
    if not isinstance(numbers, list) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) and holds(number)
        for number in numbers
    ):
        raise UserError(f'{name}={numbers!r} must be a list of {must}')
    return tuple(numbers)
