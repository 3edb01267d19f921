"""What the package says while it works: lines that stay, and a line that a terminal rewrites in place.

A command speaks; in a program that imports the package it is silent, unless that program asks for `speaking`.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_speaking = False
_spell: Callable[[str], str] = str


@contextlib.contextmanager
def speaking(spell: Callable[[str], str] = str) -> Iterator[None]:
    """Within the block the package writes lines and progress to standard output; for one thread at a time.

    Args:
      spell: line -> line, as a command puts its flags instead of fields.
    """
    global _speaking, _spell
    before, (_speaking, _spell) = (_speaking, _spell), (True, spell)
    try:
        yield
    finally:
        _speaking, _spell = before


def say(line: str, stream: TextIO | None = None) -> None:
    """Write `line` to `stream`, by default standard output, if the package is `speaking`."""
    if _speaking:
        ProgressLine(stream).say(_spell(line))


class ProgressLine:
    """Shows one line; in a terminal the next `show` replaces it, in a file it follows."""

    def __init__(self, stream: TextIO | None = None):
        """`stream`: where to write; None: standard output if the package is `speaking`, else nowhere."""
        self._stream = stream or (sys.stdout if _speaking else None)
        self.in_place = self._stream is not None and self._stream.isatty()
        self._open = False

    def show(self, line: str) -> None:
        """Show a line, which the next call replaces in a terminal."""
        if self.in_place:
            # A line that wraps could not be rewritten: cut it to the window.
            width = shutil.get_terminal_size().columns - 1
            self._write(f'\r{line[:width]}\x1b[K')
            self._open = True
        else:
            self._write(line + '\n')

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.close()
        self._write(line + '\n')

    def close(self) -> None:
        """Leave the last line where it is and go below it."""
        if self._open:
            self._write('\n')
            self._open = False

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            # The terminal was closed. The signal that says so comes later, or, after `disown`, never.
            if not self.in_place or error.errno != errno.EIO:
                raise
            silence(self._stream)


@contextlib.contextmanager
def logging_level(library: str, level: int) -> Iterator[None]:
    """Within the block the logger called `library` passes on nothing below `level`."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def silence(stream: TextIO) -> None:
    """Discard what is written to `stream`, and to its file descriptor, from now on."""
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def duration(seconds: float) -> str:
    """'8 s', '2 min 05 s', '3 h 20 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


def parse_duration(text: str) -> float | None:
    """Seconds of '90s', '10m', '1h30m' or '2d'; None where it is no such time, or none at all."""
    parts = re.fullmatch(''.join(rf'(?:([\d.]+){unit})?' for unit in 'dhms'), text)
    try:
        numbers = [float(number or 0) for number in parts.groups()] if parts else []
    except ValueError:  # '1.2.3m'
        return None
    return sum(n * unit for n, unit in zip(numbers, (86400, 3600, 60, 1), strict=False)) or None


class Ticks:
    """When to show progress between two logs: every few seconds in a terminal, ever more rarely in a file."""

    def __init__(self, *, in_place: bool, seconds: float = 5.0):
        """The first tick is due in `seconds`."""
        self._wait = seconds
        self._growth = 1 if in_place else 2
        self._next = time.perf_counter() + seconds

    def due(self) -> bool:
        """Whether to show it now; then the next wait begins."""
        if time.perf_counter() < self._next:
            return False
        self._wait *= self._growth
        self._next = time.perf_counter() + self._wait
        return True


class ImageCounter:
    """Counts images, and now and then shows how many there are."""

    def __init__(self, line: ProgressLine, doing: str, *, always: bool = True):
        """`doing`: 'cifar10: prepared'; `always`: show the last one even where nothing was shown before."""
        self._line, self._doing, self._shown = line, doing, always
        self._done, self._start = 0, time.perf_counter()
        # A line in a log stays there.
        self._ticks = Ticks(in_place=line.in_place, seconds=0.5 if line.in_place else 10)

    def __call__(self, total: int) -> None:
        """Count one image of `total`."""
        self._done += 1
        if self._done % 100 and self._done < total:
            return
        if self._ticks.due() or (self._done == total and self._shown):
            throughput = self._done / max(time.perf_counter() - self._start, 1e-9)
            self._line.show(f'{self._doing} {self._done:,}/{total:,} images, {throughput:,.0f} images/s')
            self._shown = True


class Pace:
    """Throughput since the last log, and the time to go."""

    def __init__(self, step: int, total_steps: int, *, images_per_step: int):
        """Start the clock after `step` steps."""
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self.restart(step)

    def images_per_second(self, step: int) -> float:
        """Throughput over the steps since the last `resume` or `restart`."""
        last_step, since = self._last
        return self._images_per_step * (step - last_step) / max(time.perf_counter() - since, 1e-9)

    def resume(self, step: int) -> None:
        """Start a new window: evaluating and saving took the time since the last log."""
        self._last = (step, time.perf_counter())

    def restart(self, step: int) -> None:
        """Start anew: compiling took the time so far."""
        self._first = self._last = (step, time.perf_counter())

    def seconds_to_go(self, step: int) -> float:
        """Time to go at the pace since the start, evaluations and saves included."""
        first_step, since = self._first
        done = max(step - first_step, 1)
        return (time.perf_counter() - since) / done * (self._total_steps - step)
