"""Runs read from their workdirs, and put together where they differ in the seed alone."""

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metasemi_jax.config.fields import FIELDS
from metasemi_jax.config.form import differing_fields, flatten, settled
from metasemi_jax.errors import UserError
from metasemi_jax.methods.titles import method_title
from metasemi_jax.report.published import PublishedError, published
from metasemi_jax.results import METRICS
from metasemi_jax.sweep.folder import is_sweep, run_folders, swept_fields
from metasemi_jax.workdir import Workdir

METHOD_FIELDS = ('method.name', 'method.meta', 'method.mixup', 'method.entropy_weight')  # what names a method
# Fields of a method's recipe: rows of different methods may differ in them, and the notes name them.
RECIPE = ('method.', 'optimizer.', 'unlabeled_ratio', 'ema_decay', 'ema_convention', 'data.strong')


class FinishedRun(NamedTuple):
    """A run with its metrics."""

    folder: Path
    config: dict[str, Any]  # as it is written, flat
    fields: dict[str, Any]  # the same, settled
    results: dict[str, Any]
    num_labels: int  # images, those held out included


class Spread(NamedTuple):
    """Mean and deviation of one metric over the seeds."""

    mean: float
    std: float | None  # n - 1 in the denominator; None for one seed


class Row(NamedTuple):
    """Runs that differ in the seed alone."""

    name: str
    setting: dict[str, Any]  # the fields that may differ between rows
    seeds: list[int]  # ascending
    errors: dict[str, list[float]]  # percent by protocol, in the order of the seeds; 'test_error_last', ...
    published: PublishedError | None = None  # the error of its method, network and number of labels
    recipe: tuple[str, ...] = ()  # fields in which the methods of the table differ beside their own options


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def find_runs(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The folders of the runs in `folders`, each a run's or a sweep's, and the fields that sweeps vary.

    Raises:
      UserError: a folder that is neither.
    """
    runs, fields = [], []
    for folder in folders:
        if is_sweep(folder):
            runs += run_folders(folder)
            fields += [field for field in swept_fields(folder) if field not in fields]
        elif (folder / 'config.json').exists():
            runs.append(folder)
        else:
            kinds = 'holds neither a run (config.json) nor a sweep (sweep.json)'
            what = kinds if folder.is_dir() else 'does not exist'
            raise UserError(f'{folder} {what}; name the folders of runs or of sweeps')
    return runs, fields


def read_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs, and a short text for each other run: its folder and its last saved step."""
    finished, unfinished = [], []
    for folder in folders:
        files = Workdir(folder)
        if not files.config.exists():
            unfinished.append(f'{folder} (not begun)')
            continue
        config = flatten(files.read_config())
        fields = settled(config)
        results = files.read_results()
        if results is None:
            saved = max(files.saved_steps(), default=0)
            unfinished.append(f'{folder} (saved at step {saved} of {fields["total_steps"]})')
        else:
            finished.append(FinishedRun(folder, config, fields, results, _num_labels(files, fields, results)))
    return finished, unfinished


def _num_labels(files: Workdir, fields: dict[str, Any], results: dict[str, Any]) -> int:
    # 0: all labels, or those that data.split_file names.
    if fields['data.num_labels']:
        return fields['data.num_labels']
    split = files.read_split(results.get('split_sha256'))
    return len(split.labeled) + len(split.validation) if split else 0


def make_rows(runs: Sequence[FinishedRun], by: Sequence[str]) -> list[Row]:
    """Put the runs together that agree in the fields `by`; the first of them changes fastest over the rows.

    Raises:
      UserError: runs that differ in another field than these and the seed, in their classes, or in nothing.
    """
    _refuse_differences(runs, by)
    recipe = _recipe(runs, by)
    groups: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: [_order(run.fields[name]) for name in (*reversed(by), 'seed')]):
        groups.setdefault(json.dumps([run.fields[name] for name in by]), []).append(run)
    differing = [name for name in by if len({json.dumps(run.fields[name]) for run in runs}) > 1]
    return [_row(group, by, differing, recipe) for group in groups.values()]


def _refuse_differences(runs: Sequence[FinishedRun], by: Sequence[str]) -> None:
    firsts: dict[str, FinishedRun] = {}  # of each method, where methods make rows
    for run in runs:
        first = firsts.setdefault(run.fields['method.name'] if 'method.name' in by else '', run)
        pairs = [(first, _differences(first, run, by))]
        if first is run:
            pairs.append((runs[0], _differences(runs[0], run, by, but=RECIPE)))
        for other, differing in pairs:
            if differing:
                raise UserError(
                    f'{run.folder} differs from {other.folder} in more than the seed '
                    f'({"; ".join(differing)}); leave one of them out, or name the fields that shall make '
                    'rows, as '
                    f'--by={",".join([*by, differing[0].split(":")[0]])}'
                )
        if _class_names(run) != _class_names(runs[0]):
            raise UserError(f'{run.folder} has other classes than {runs[0].folder}; leave one of them out')


def _differences(
    one: FinishedRun, other: FinishedRun, by: Sequence[str], but: tuple[str, ...] = ()
) -> list[str]:
    """Fields in which two runs differ, beside the seed, `by` and those that begin with one of `but`."""
    # The name stays with the options: it says which of them count.
    left_out = {'seed', *by} - {'method.name'}
    fields = [
        {name: run.config[name] for name in run.config.keys() - left_out if not name.startswith(but)}
        for run in (one, other)
    ]
    return differing_fields(*fields)


def _recipe(runs: Sequence[FinishedRun], by: Sequence[str]) -> tuple[str, ...]:
    """The fields beside the methods' own options in which the recipes of the rows differ."""
    if 'method.name' not in by:
        return ()
    names = [name for name in FIELDS if name.startswith(RECIPE) and not name.startswith('method.')]
    return tuple(
        name for name in names if name not in by and len({json.dumps(run.fields[name]) for run in runs}) > 1
    )


def _class_names(run: FinishedRun) -> tuple[str, ...] | None:
    files = Workdir(run.folder)
    return files.read_class_names() if files.class_names.exists() else None


def _order(value: Any) -> tuple[bool, Any]:
    return (value is not None, 0 if value is None else value)


def _row(
    runs: list[FinishedRun], by: Sequence[str], differing: Sequence[str], recipe: tuple[str, ...]
) -> Row:
    for one, other in itertools.pairwise(runs):
        if one.fields['seed'] == other.fields['seed']:
            raise UserError(
                f'{one.folder} and {other.folder} are the same settings with the same seed, '
                f'{one.fields["seed"]}; leave one of them out'
            )
    fields = runs[0].fields
    others = [f'{name}={fields[name]}' for name in differing if name not in METHOD_FIELDS]
    named = not others or any(name in METHOD_FIELDS for name in differing)
    return Row(
        name=', '.join([method_title(fields)] * named + others),
        setting={name: fields[name] for name in by},
        seeds=[run.fields['seed'] for run in runs],
        errors={
            name: [run.results[name] for run in runs]
            for name in METRICS
            if all(name in run.results for run in runs)
        },
        published=published(fields, runs[0].num_labels),
        recipe=recipe,
    )
