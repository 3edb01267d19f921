"""Grain's worker processes, started and ended so that a run leaves none behind and none speaks."""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker
from typing import Any

import numpy as np
from absl import flags

from metasemi_jax.command.signals import ENDING
from metasemi_jax.data.images.parallel import available_cores
from metasemi_jax.errors import UserError

ELEMENTS_AHEAD = 2  # of each worker


def stream(source: Any, *, num_workers: int) -> Iterator[np.ndarray]:
    """The elements of a random-access `source`, arrays, in order, made ahead of time in other processes.

    The processes are new Python interpreters (Grain spawns, it does not fork a process that runs JAX), which
    end with this iterator, with the program, and when that is killed. They import JAX, since Grain does, but
    start none of its backends.

    Args:
      source: picklable, with `__len__` and `__getitem__`.
      num_workers: processes; 0 for as many threads of this process as there are cores.

    Raises:
      UserError: as the source raises it, or a worker was killed.
    """
    # Imported here: it takes a second, and resident data do without.
    import grain

    if not flags.FLAGS.is_parsed():
        # Grain looks at flags of its own; a program without absl's has none to parse.
        flags.FLAGS.mark_as_parsed()
    threads = 0 if num_workers else available_cores()
    elements = grain.MapDataset.source(source).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ELEMENTS_AHEAD * threads)
    )
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=ELEMENTS_AHEAD)
    iterator = iter(elements.mp_prefetch(options, worker_init_fn=_start_worker))
    try:
        with _held_signals():
            element = np.array(next(iterator))
        while True:
            yield element
            # A copy: what lies in shared memory, of which a container has little, is freed at once.
            element = np.array(next(iterator))
    except RuntimeError as error:
        # Grain's own words, for a process that was killed.
        if 'terminated unexpectedly' not in str(error):
            raise
        raise UserError(
            f'one of {num_workers} processes that decode images was killed, perhaps for want of memory; the '
            'same command continues from the last checkpoint, with a smaller data.num_workers='
        ) from error
    finally:
        iterator.close()
        del iterator
        _free_shared_memory()


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Keep signals waiting while workers start: these inherit it, so that they never see them.

    A terminal and many schedulers send a signal to every process of a job, but it is the main one that saves
    and ends. A handler set in the worker would come too late: its imports take seconds.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        # It lifts the mask of two signals where it is started; it must not die of the others either.
        _start_resource_tracker()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Start Python's process that frees the shared memory of a killed one, without its complaint of that."""
    before = os.environ.get('PYTHONWARNINGS')
    silent = 'ignore:resource_tracker:UserWarning'
    os.environ['PYTHONWARNINGS'] = f'{before},{silent}' if before else silent
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ['PYTHONWARNINGS']
        if before is not None:
            os.environ['PYTHONWARNINGS'] = before


def _free_shared_memory() -> None:
    """Let Grain free what it has laid aside for that; at the program's end it would leave it to a warning."""
    from grain.multiprocessing import SharedMemoryArray

    gc.collect()
    # One thread, in order: when it has done nothing, it has done all that came before.
    pool = getattr(SharedMemoryArray, '_del_thread_pool', None)
    if pool is not None:
        pool.apply(int)


def _start_worker(index: int, count: int) -> None:
    del index, count
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(0)
