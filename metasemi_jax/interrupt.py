"""SIGTERM and Ctrl-C as a request that the loop answers between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Truthy once a signal has come; `name` and `exit_code` (128 + its number) say which."""

    def __init__(self):
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

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
    """Note SIGTERM and SIGINT instead of dying of them; a second one has its usual effect.

    Outside the main thread, where Python allows no handlers, signals keep the effect they have.
    """
    request = StopRequest()
    previous = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def note(number: int, frame) -> None:
        del frame
        request.signal = signal.Signals(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
