"""What Grain 0.2.18 makes necessary; a later version may need none of it. Issues are of google/grain."""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker

from absl import flags

from metasemi_jax.command.signals import ENDING


def let_grain_read_flags() -> None:
    """Mark absl's flags as parsed, where Grain reads its options, in a program without flags (grain#1360)."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Block signals while workers start: they inherit the mask, so that no signal ends them.

    A terminal and many schedulers send a signal to every process of a job; the process that trains saves and
    ends. A handler set in the worker would come too late: its imports take seconds.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        # Its start unblocks two signals in this process; the tracker must not die of the others either.
        _start_resource_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Start Python's process that frees the shared memory of a killed one, without its warning of a leak."""
    before = os.environ.get('PYTHONWARNINGS')
    silent = 'ignore:resource_tracker:UserWarning'
    os.environ['PYTHONWARNINGS'] = f'{before},{silent}' if before else silent
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ['PYTHONWARNINGS']
        if before is not None:
            os.environ['PYTHONWARNINGS'] = before


def free_shared_memory() -> None:
    """Wait until Grain has freed its shared memory; the program's end would warn of a leak (grain#398)."""
    from grain.multiprocessing import SharedMemoryArray

    gc.collect()
    # The pool has one thread: when this empty task is done, all earlier ones are.
    pool = getattr(SharedMemoryArray, '_del_thread_pool', None)
    if pool is not None:
        pool.apply(int)


def end_with_parent(index: int, count: int) -> None:
    """In a new worker: end it with its parent, which Grain's workers survive if the parent is killed."""
    del index, count
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(0)
