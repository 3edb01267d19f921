"""Listeners to a fit: one is silent, one prints a progress line."""

import math
import sys

from metasemi_jax.progress import Pace, ProgressLine, Ticks, duration


class Listener:
    """A listener that ignores all events."""

    def say(self, line: str) -> None:
        """Receive a line for people; '' means none."""

    def loss(self, step: int, total: int, loss: float) -> None:
        """Receive `loss`, the mean training loss since the last call, after `step` of `total` steps."""

    def tick(self, step: int, total: int) -> None:
        """Receive the progress between two losses."""


class Printer(Listener):
    """Prints lines, and a progress line that is rewritten in place in a terminal."""

    def __init__(self):
        self._progress, self._pace, self._loss = ProgressLine(sys.stdout), None, math.nan
        self._ticks = Ticks(in_place=self._progress.in_place)

    def say(self, line: str) -> None:
        if line:
            self._progress.say(line)

    def loss(self, step: int, total: int, loss: float) -> None:
        self._loss = loss
        # Outside a terminal every line stays, so only a few are printed.
        if step == total or self._progress.in_place:
            self._show(step, total)
        else:
            self.tick(step, total)
        if step == total:
            self._progress.close()

    def tick(self, step: int, total: int) -> None:
        if self._pace is None:
            # The first call compiles; its time says nothing of the pace.
            self._pace = Pace(step, total, images_per_step=1)
        elif self._ticks.due():
            self._show(step, total)

    def _show(self, step: int, total: int) -> None:
        left = f'  {duration(self._pace.seconds_to_go(step))} to go' if self._pace else ''
        loss = '' if math.isnan(self._loss) else f'  loss {self._loss:.4f}'
        self._progress.show(f'step {step}/{total}{loss}{left}')
