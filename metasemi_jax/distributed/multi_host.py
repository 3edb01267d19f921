"""Several processes as one program: how they find each other, speak with one voice and end together."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import jax
import numpy as np
from jax.experimental import multihost_utils

from metasemi_jax.errors import UserError

# JAX's own defaults let the survivors of a lost process wait for 100 s, and then for 300 s to say goodbye.
LOST_AFTER_SECONDS = 30


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect this process with the others; the first call to JAX. All but the primary process fall silent.

    On TPU pods, under SLURM (`srun`) and Open MPI the processes find each other by themselves; elsewhere all
    three arguments are needed. A program alone on its machine does nothing here.

    Args:
      coordinator: 'HOST:PORT' of process 0, reachable by all.
      process_id: 0 to `num_processes` - 1.

    Raises:
      UserError: some of the arguments but not all, values out of range, or processes that do not answer.
    """
    given = {'coordinator': coordinator, 'num_processes': num_processes, 'process_id': process_id}
    missing = [name for name, value in given.items() if value is None]
    alone = len(missing) == len(given) and not _started_as_task()
    if alone and find_spec('libtpu') is None:
        return
    if missing and len(missing) < len(given):
        raise UserError(f'{" and ".join(missing)} must be given too; see docs/scaling.md')
    if coordinator and not coordinator.rpartition(':')[2].isdecimal():
        raise UserError(f'coordinator={coordinator} must be HOST:PORT of process 0')
    if coordinator and not 0 <= process_id < num_processes:
        raise UserError(f'process_id={process_id} must be at least 0 and less than {num_processes}')
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=LOST_AFTER_SECONDS,
            shutdown_timeout_seconds=LOST_AFTER_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        if alone and isinstance(error, ValueError):
            return  # libtpu is installed, but this is no TPU machine
        raise UserError(
            f'the processes did not find each other ({str(error).splitlines()[0]}); start all of them with '
            'the same coordinator, each with its own process_id'
        ) from error
    if not is_primary():
        # Open for as long as the process lives.
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115


def is_primary() -> bool:
    """Whether this is the primary process, which prints and writes files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """A failure of one process inside the block ends all processes there, so that none waits in vain.

    Raises:
      UserError: another process failed. Its own UserError or OSError goes on.
    """
    if jax.process_count() == 1:
        yield
        return
    failure = None
    try:
        yield
    except (UserError, OSError) as error:
        failure = error
    failed = _everyones(np.asarray(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise UserError(f'process {int(failed.argmax())} cannot go on; its own message says why')


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must call this."""
    return flag if jax.process_count() == 1 else bool(_everyones(np.asarray(flag)).any())


def of_primary(value: np.ndarray) -> np.ndarray:
    """The value of the primary process; every process must call this."""
    return value if jax.process_count() == 1 else _everyones(value)[0]


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Make what the devices report when another process is gone a UserError.

    Where they report nothing and wait, JAX ends this process after `LOST_AFTER_SECONDS`, with its own words.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or 'RESOURCE_EXHAUSTED' in str(error):
            raise
        raise UserError(
            f'another process was lost ({str(error).splitlines()[0]}); start all of them again, and they go '
            'on from the last checkpoint'
        ) from error


def check_same(what: str, value: str) -> None:
    """Refuse processes that disagree.

    Args:
      what: what messages call it.
      value: what this process has for it.

    Raises:
      UserError: the processes disagree; raised in each of them.
    """
    if jax.process_count() == 1:
        return
    everyones = _everyones(np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8))
    differing = np.flatnonzero((everyones != everyones[0]).any(axis=1))
    if len(differing):
        raise UserError(
            f'process {differing[0]} and process 0 do not have the same {what}; start all processes with the '
            'same flags, on the same data, with a workdir that they share'
        )


def _everyones(value: np.ndarray) -> np.ndarray:
    """`value` of each process, [processes, ...]."""
    return multihost_utils.process_allgather(value)


def _started_as_task() -> bool:
    """Whether `srun` or `mpirun` started this process as one of several."""
    # SLURM's batch script has SLURM_NTASKS too, but no node list of a step.
    slurm = 'SLURM_STEP_NODELIST' in os.environ and int(os.environ.get('SLURM_NTASKS', 1)) > 1
    return slurm or int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
