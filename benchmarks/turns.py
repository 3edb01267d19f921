"""Timing what is to be compared by turns, so that what else the machine does meets all of it alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from metasemi_jax.errors import UserError


def take_turns(runs: Sequence[Callable[[int], int]], *, rounds: int, seconds: float) -> list[list[float]]:
    """Seconds a step, of each of `rounds` turns, for each of `runs`.

    Args:
      runs: each does at least so many steps, waits for them, and returns how many it did.
      rounds: turns that each takes. Two calls of one step go before them and are not counted: one warms up,
        one tells how many steps make a turn.
      seconds: approximate length of a turn.
    """
    times, lengths = [[] for _ in runs], []
    for run in runs:
        run(1)
        start = time.perf_counter()
        done = run(1)
        lengths.append(max(1, round(seconds * done / (time.perf_counter() - start))))
    for _ in range(rounds):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            done = run(lengths[i])
            times[i].append((time.perf_counter() - start) / done)
    return times


def whole_numbers(flag: str, values: Sequence[str | int]) -> list[int]:
    """`values` of `--flag` as positive numbers.

    Raises:
      UserError: one of them is none.
    """
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise UserError(f'--{flag}={",".join(map(str, values))}: positive whole numbers are needed')
    return numbers


def spread(seconds: Sequence[float]) -> str:
    """'median (least, most)', in milliseconds."""
    return f'{1e3 * statistics.median(seconds):.4g} ({1e3 * min(seconds):.4g}, {1e3 * max(seconds):.4g})'


def images_of(config: Any) -> int:
    """Images of a step: the labeled ones and the unlabeled ones, second views not counted."""
    return (1 + config.unlabeled_ratio) * config.batch_size


def sizes_of(config: Any) -> str:
    """'64 + 448 images': labeled and unlabeled ones of a step."""
    return f'{config.batch_size} + {config.unlabeled_ratio * config.batch_size} images'
