"""Runs read from their workdirs, and put together where they differ in the seed alone."""

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metasemi_jax.config import FIELDS, differing_fields, flatten, settled
from metasemi_jax.errors import UserError
from metasemi_jax.report.published import ABLATION, published
from metasemi_jax.results import PROTOCOLS, WEIGHTS
from metasemi_jax.sweep.folder import is_sweep, run_folders, swept_fields
from metasemi_jax.workdir import Workdir

METHOD = ('method.meta', 'method.mixup')


class FinishedRun(NamedTuple):
    """A run with its figures."""

    folder: Path
    fields: dict[str, Any]  # of its config, flat
    results: dict[str, Any]
    num_labels: int  # images, those held out included


class Spread(NamedTuple):
    """Of one figure over the seeds."""

    mean: float
    std: float | None  # n - 1 in the denominator; None for one seed


class Row(NamedTuple):
    """Runs that differ in the seed alone."""

    name: str
    setting: dict[str, Any]  # the fields that may differ between rows
    seeds: list[int]  # ascending
    figures: dict[str, list[float]]  # percent by protocol, in the order of the seeds; 'test_error_last', ...
    paper: float | None = None  # the paper's test error, percent
    paper_all_labels: float | None = None  # and with all the labels there are


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
            raise UserError(f'{folder} holds neither a run (config.json) nor a sweep (sweep.json)')
    return runs, fields


def read_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs, and for each other one a few words: its folder and how far it is."""
    finished, unfinished = [], []
    for folder in folders:
        files = Workdir(folder)
        if not files.config.exists():
            unfinished.append(f'{folder} (not begun)')
            continue
        # A run of an older program may lack a field, and None is the method's own.
        saved = flatten(files.read_config())
        fields = dict.fromkeys(FIELDS) | saved
        fields |= {name: settled(saved)[name] for name in ('method.name', *METHOD)}
        results = files.read_results()
        if results is None:
            saved = max(files.saved_steps(), default=0)
            unfinished.append(f'{folder} (saved at step {saved} of {fields["total_steps"]})')
        else:
            finished.append(FinishedRun(folder, fields, results, _num_labels(files, fields, results)))
    return finished, unfinished


def _num_labels(files: Workdir, fields: dict[str, Any], results: dict[str, Any]) -> int:
    # 0 stands for all that there are, or that data.split_file names.
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
    groups: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: [_order(run.fields[name]) for name in (*reversed(by), 'seed')]):
        groups.setdefault(json.dumps([run.fields[name] for name in by]), []).append(run)
    differing = [name for name in by if len({json.dumps(run.fields[name]) for run in runs}) > 1]
    return [_row(group, by, differing) for group in groups.values()]


def _refuse_differences(runs: Sequence[FinishedRun], by: Sequence[str]) -> None:
    def compared(run: FinishedRun) -> dict[str, Any]:
        return {name: value for name, value in run.fields.items() if name not in {*by, 'seed'}}

    first = runs[0]
    for run in runs[1:]:
        if differing := differing_fields(compared(first), compared(run)):
            raise UserError(
                f'{run.folder} differs from {first.folder} in more than the seed ({"; ".join(differing)}); '
                'leave one of them out, or name the fields that shall make rows, as '
                f'--by={",".join([*by, differing[0].split(":")[0]])}'
            )
        if _class_names(run) != _class_names(first):
            raise UserError(f'{run.folder} has other classes than {first.folder}; leave one of them out')


def _class_names(run: FinishedRun) -> tuple[str, ...] | None:
    files = Workdir(run.folder)
    return files.read_class_names() if files.class_names.exists() else None


def _order(value: Any) -> tuple[bool, Any]:
    return (value is not None, 0 if value is None else value)


def _method_name(fields: dict[str, Any]) -> str:
    if fields['method.name'] == 'metasemi':
        return ABLATION[bool(fields['method.meta']), bool(fields['method.mixup'])]
    return fields['method.name'] + (' with meta' if fields.get('method.meta') else '')


def _row(runs: list[FinishedRun], by: Sequence[str], differing: Sequence[str]) -> Row:
    for one, other in itertools.pairwise(runs):
        if one.fields['seed'] == other.fields['seed']:
            raise UserError(
                f'{one.folder} and {other.folder} are the same settings with the same seed, '
                f'{one.fields["seed"]}; leave one of them out'
            )
    fields = runs[0].fields
    ablation = _method_name(fields)
    figures = published(fields, runs[0].num_labels)
    others = [f'{name}={fields[name]}' for name in differing if name not in METHOD]
    named = not others or any(name in METHOD for name in differing)
    return Row(
        name=', '.join([ablation] * named + others),
        setting={name: fields[name] for name in by},
        seeds=[run.fields['seed'] for run in runs],
        figures={
            prefix + protocol: [run.results[prefix + protocol] for run in runs]
            for prefix in WEIGHTS
            for protocol in PROTOCOLS
            if all(prefix + protocol in run.results for run in runs)
        },
        paper=figures and figures.errors.get(ablation),
        paper_all_labels=figures and figures.all_labels,
    )
