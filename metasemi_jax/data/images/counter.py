"""Progress of what is done to every image of a dataset."""

import sys
import time

from metasemi_jax.progress import ProgressLine


class ImageCounter:
    """Counts images, and now and then shows how many there are."""

    def __init__(self, line: ProgressLine, doing: str, *, always: bool = True):
        """`doing`: 'cifar10: prepared'; `always`: show the last one even where nothing was shown before."""
        self._line, self._doing, self._always = line, doing, always
        self._done = 0
        self._start = self._shown = time.perf_counter()
        # A line in a log stays there.
        self._seconds = 0.5 if sys.stdout.isatty() else 10

    def __call__(self, total: int) -> None:
        """Count one image of `total`."""
        self._done += 1
        if self._done % 100 and self._done < total:
            return
        now = time.perf_counter()
        long_enough = now - self._shown >= self._seconds
        shown = self._always or self._shown > self._start
        if long_enough or (self._done == total and shown):
            throughput = self._done / max(now - self._start, 1e-9)
            self._line.show(f'{self._doing} {self._done:,}/{total:,} images, {throughput:,.0f} images/s')
            self._shown = now
