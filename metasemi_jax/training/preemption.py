"""Signals (Ctrl-C, SIGTERM, ...) as a request that the loop answers between two steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from metasemi_jax.command import signals


class StopRequest:
    """Truthy once a signal has come; `name` and `exit_code` (128 + its number) say which."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}
        self._listening = False
        self._calls = 0

    def listen(self) -> None:
        """Note the signals that would end the program; a second one has its usual effect.

        Elsewhere than in a command, handlers are set, and where Python allows none, outside the main thread,
        signals keep the effect they have. With several processes JAX itself notes SIGTERM, in all of them,
        and every other signal is handed on as one.
        """
        if self._listening:
            return
        several = _several_processes()
        receive = self._hand_on if several else self._note
        if signals.watching():
            signals.hand_next_to(receive)
        elif threading.current_thread() is threading.main_thread():
            for number in signals.ENDING:
                ignored = number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN
                if not ignored and not (several and number == signal.SIGTERM):
                    self._previous[number] = signal.signal(number, receive)
        else:
            return
        self._listening = True

    def ignore(self) -> None:
        """Give signals back the effect that they had before `listen`."""
        if self._listening and signals.watching():
            signals.hand_next_to(None)
        self._put_back()
        self._listening = False

    def reached(self) -> bool:
        """Whether to stop after this call of the step; call it once for each call.

        Several processes stop after the same call: the signal may reach one alone, or all at different steps,
        and JAX chooses a call that none of them has passed.
        """
        if _several_processes() and multihost_utils.reached_preemption_sync_point(self._calls):
            self.signal = signal.SIGTERM
        self._calls += 1
        return bool(self)

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: Any = None) -> None:
        del frame
        self.signal = signal.Signals(number)
        self._put_back()

    def _hand_on(self, number: int, frame: Any = None) -> None:
        del number, frame
        self._put_back()
        os.kill(os.getpid(), signal.SIGTERM)

    def _put_back(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    @property
    def name(self) -> str:
        """'SIGTERM', 'SIGINT', ..."""
        return self.signal.name

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells expect."""
        return 128 + self.signal


def _several_processes() -> bool:
    # Counting processes starts the accelerator, which a sweep leaves to its runs. So the question is first
    # whether there can be several.
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A `StopRequest` that does not listen yet; the end of the block restores all signal handlers."""
    request = StopRequest()
    try:
        yield request
    finally:
        request.ignore()
