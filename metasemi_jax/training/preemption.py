"""SIGTERM and Ctrl-C as a request that the loop answers between two steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Truthy once a signal has come; `name` and `exit_code` (128 + its number) say which."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}
        self._calls = 0

    def listen(self) -> None:
        """Note SIGTERM and SIGINT instead of dying of them; a second one has its usual effect.

        Outside the main thread, where Python allows no handlers, signals keep the effect they have. With
        several processes JAX itself notes SIGTERM, in all of them, and Ctrl-C is handed on as one.
        """
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        if _several_processes():
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._hand_on)
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Give signals back the effect that they had before `listen`."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def reached(self) -> bool:
        """Whether to stop after this call of the step; to be asked once at every call.

        Several processes stop after the same call: the signal may reach one alone, or all at different steps,
        and JAX chooses a call that none of them has passed.
        """
        if _several_processes() and multihost_utils.reached_preemption_sync_point(self._calls):
            self.signal = signal.SIGTERM
        self._calls += 1
        return bool(self)

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame) -> None:
        del frame
        self.signal = signal.Signals(number)
        self.ignore()

    def _hand_on(self, number: int, frame) -> None:
        del number, frame
        self.ignore()
        os.kill(os.getpid(), signal.SIGTERM)

    @property
    def name(self) -> str:
        """'SIGTERM' or 'SIGINT'."""
        return self.signal.name

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.signal


def _several_processes() -> bool:
    # Asked first whether there can be: counting them would start the accelerator, which a sweep leaves to its
    # runs.
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that begins to `listen` when its user says so, and no longer does at the end of the block."""
    request = StopRequest()
    try:
        yield request
    finally:
        request.ignore()
