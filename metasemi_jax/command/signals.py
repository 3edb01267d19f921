"""A signal ends the program at once: one line on stderr, and the exit code 128 + its number.

Python's own handlers run in the main thread, between two bytecodes. They would wait for XLA, which compiles
for minutes, and an exception that they raise is lost where the thread happens to be in a callback of the
garbage collector. So a thread of its own ends the program; the C handler wakes it through a pipe.
"""

import _thread
import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

# All that end a program by default and that a user, a terminal or a scheduler sends.
ENDING = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
LINE = 'ended; nothing that was saved is lost'

_watching = False
_receiver: Callable[[int], None] | None = None
_unfinished: set[str] = set()


def end_at_once() -> None:
    """From here on a signal of `ENDING` ends this program, whatever its threads are at.

    For a program that is a command; a library leaves signals alone. `nohup` asks to ignore SIGHUP, which is
    respected.
    """
    global _watching
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        # `threading` takes as long to import as the rest of this module; a signal may come meanwhile.
        _thread.start_new_thread(_watch, (read,))
    except RuntimeError:  # no thread is left; signals keep their usual effect
        os.close(read)
        os.close(write)
        return
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in ENDING:
        # A shell that puts a script's command into the background ignores SIGINT for it.
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)
    os.register_at_fork(after_in_child=_forget)
    _watching = True


def watching() -> bool:
    """Whether `end_at_once` was called in this program."""
    return _watching


def hand_next_to(receiver: Callable[[int], None] | None) -> None:
    """Call `receiver` with the next signal's number, in another thread, instead of ending.

    The signal after that ends the program. None: the next one does.
    """
    global _receiver
    _receiver = receiver


@contextlib.contextmanager
def removed_at_end(path: str | os.PathLike) -> Iterator[None]:
    """Remove the file `path` if a signal ends the program within the block."""
    _unfinished.add(os.fspath(path))
    try:
        yield
    finally:
        _unfinished.discard(os.fspath(path))


def end_within(seconds: int) -> None:
    """End with the exit code 1 after `seconds`, if this program, which has failed, has not ended by then.

    A library's thread may wait for one that could not be started, and Python waits for that thread.
    """
    if _watching:
        signal.signal(signal.SIGALRM, _nothing)
        signal.alarm(seconds)


def _watch(pipe: int) -> None:
    global _receiver
    while number := os.read(pipe, 1):
        number = number[0]
        # A library may have put a handler of its own instead of ours.
        if signal.getsignal(number) is not _nothing:
            continue
        if number == signal.SIGALRM:
            os._exit(1)
        receiver, _receiver = _receiver, None
        if receiver:
            receiver(number)
        else:
            _end(number)


def _end(number: int) -> None:
    for path in tuple(_unfinished):
        with contextlib.suppress(OSError):
            os.unlink(path)
    # The terminal shows ^C, and leaves the cursor behind it.
    with contextlib.suppress(OSError, ValueError):
        before = '\n' if os.isatty(2) else ''
        # A pipe that nobody empties would keep the program from ending.
        if select.select([], [2], [], 1)[1]:
            os.write(2, f'{before}{signal.Signals(number).name}: {LINE}\n'.encode())
    os._exit(128 + number)


def _nothing(number: int, frame: object) -> None:
    """The handler in Python: it exists for the sake of the C handler below it, which wakes the thread."""


def _forget() -> None:
    global _watching
    # A forked child shares the pipe, and its signals are not its parent's.
    _watching = False
    signal.set_wakeup_fd(-1)
    for number in ENDING:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.SIG_DFL)
