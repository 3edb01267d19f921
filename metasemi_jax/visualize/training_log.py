"""The metrics that a run has logged, read from a file that may be damaged."""

from pathlib import Path
from typing import NamedTuple

from metasemi_jax.training.run_log import read_lines


class Series(NamedTuple):
    """One metric over time."""

    steps: list[int]  # ascending
    values: list[float]  # finite


class TrainingLog(NamedTuple):
    """Contents of metrics.jsonl."""

    series: dict[str, Series]  # 'train/loss', 'test/error', ...
    num_damaged: int  # lines that were skipped


def read_training_log(path: Path) -> TrainingLog:
    """Every metric of every line that can be read; none without a file. The last value of a step counts."""
    values: dict[str, dict[int, float]] = {}
    num_damaged = 0
    for _, entry in read_lines(path):
        if entry is None:
            num_damaged += 1
            continue
        step = entry.pop('step')
        for name, value in entry.items():
            values.setdefault(name, {})[step] = value
    series = {}
    for name, by_step in values.items():
        steps = sorted(by_step)
        series[name] = Series(steps, [by_step[step] for step in steps])
    return TrainingLog(series, num_damaged)
