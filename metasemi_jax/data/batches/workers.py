"""Streams from Grain's worker processes; a run leaves none behind, and they print nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from metasemi_jax.data.batches.grain_workarounds import (
    end_with_parent,
    free_shared_memory,
    held_signals,
    let_grain_read_flags,
)
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

    let_grain_read_flags()
    threads = 0 if num_workers else available_cores()
    elements = grain.MapDataset.source(source).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ELEMENTS_AHEAD * threads)
    )
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=ELEMENTS_AHEAD)
    iterator = iter(elements.mp_prefetch(options, worker_init_fn=end_with_parent))
    try:
        with held_signals():
            element = np.array(next(iterator))
        while True:
            yield element
            # A copy: what lies in shared memory, of which a container has little, is freed at once.
            element = np.array(next(iterator))
    except RuntimeError as error:
        # Grain's message for a killed process.
        if 'terminated unexpectedly' not in str(error):
            raise
        raise UserError(
            f'one of {num_workers} processes that decode images was killed, perhaps for want of memory; the '
            'same command continues from the last checkpoint, with a smaller data.num_workers='
        ) from error
    finally:
        iterator.close()
        del iterator
        free_shared_memory()
