"""SIGTERM and Ctrl-C as a request that the loop answers between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Knows whether a signal has come; `name` and `exit_code` (128 + its number) say which."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}

    def listen(self) -> None:
        """Note SIGTERM and SIGINT instead of dying of them; a second one has its usual effect.

        Outside the main thread, where Python allows no handlers, signals keep the effect they have. With
        several processes JAX itself notes SIGTERM, in all of them, and Ctrl-C has its usual effect.
        """
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Give signals back the effect that they had before `listen`."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def reached(self, call: int) -> bool:
        """Whether to stop after this call of the step; to be asked at every call, counted from 0.

        Several processes stop after the same call: the signal may reach one alone, or all at different steps,
        and JAX chooses a call that none of them has passed.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(call):
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _note(self, number: int, frame) -> None:
        del frame
        self.signal = signal.Signals(number)
        self.ignore()

    @property
    def name(self) -> str:
        """'SIGTERM' or 'SIGINT'."""
        return self.signal.name

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.signal


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that begins to `listen` when its user says so, and no longer does at the end of the block."""
    request = StopRequest()
    try:
        yield request
    finally:
        request.ignore()
