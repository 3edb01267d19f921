"""Timing what is to be compared by turns, so that what else the machine does meets all of it alike."""

import statistics
import time
from collections.abc import Callable, Sequence


def take_turns(runs: Sequence[Callable[[int], int]], *, rounds: int, seconds: float) -> list[list[float]]:
    """Seconds a step, of each of `rounds` turns, for each of `runs`.

    Args:
      runs: each does at least so many steps, waits for them, and returns how many it did.
      rounds: turns that each takes; one more, of a step, goes before them, warms up and is not counted.
      seconds: of each turn, about.
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


def spread(seconds: Sequence[float]) -> str:
    """'median (least, most)', in milliseconds."""
    return f'{1e3 * statistics.median(seconds):.4g} ({1e3 * min(seconds):.4g}, {1e3 * max(seconds):.4g})'
