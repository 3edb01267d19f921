"""Ordered parallel map over images in threads; Pillow releases the GIL while it decodes."""

import collections
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

NUMBERS_PER_TASK = 32


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_threads(function: Callable[[int], Any], numbers: Sequence[int]) -> Iterator[Any]:
    """`function` of each number, in order, by a thread for each core: Pillow leaves Python's lock.

    Little is done ahead of what is taken. Many numbers are one task: a task costs more than a small image.
    """
    threads = available_cores()
    per_task = max(1, min(NUMBERS_PER_TASK, len(numbers) // (4 * threads)))
    starts = iter(range(0, len(numbers), per_task))

    def task(start: int) -> list[Any]:
        return [function(i) for i in numbers[start : start + per_task]]

    with ThreadPoolExecutor(threads) as pool:
        running = collections.deque(
            pool.submit(task, start) for start in itertools.islice(starts, 2 * threads)
        )
        try:
            while running:
                yield from running.popleft().result()
                running.extend(pool.submit(task, start) for start in itertools.islice(starts, 1))
        finally:
            pool.shutdown(cancel_futures=True)
