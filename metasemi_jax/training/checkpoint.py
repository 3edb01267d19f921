"""Orbax checkpoints: the latest two and the best, written in the background.

A UserError says what could not be written, and which checkpoint is the last whole one.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metasemi_jax.distributed.multi_host import failing_together, is_primary
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.files import write_atomically
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.orbax_workarounds import silence_orphans


def open_checkpoints(folder: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints; without `closing_checkpoints` the last save may be lost.

    Args:
      folder: made if it is missing.
      read_only: whether to look only, as into a run that may still train: nothing is made or deleted.

    Raises:
      UserError: what lies there cannot be read.
    """
    silence_orphans()
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_LatestAndBest(),
        # Orbax stores metrics only if `best_fn` is set. Without them a resumed process cannot find the best.
        best_fn=lambda metrics: -metrics['error'],
        cleanup_tmp_directories=not read_only,
        create=not read_only,
    )
    advice = 'move it away, or what is damaged in it'
    # Orbax raises whatever the layer below met.
    with as_user_error(Exception, lambda error: f'{folder} cannot be read ({orbax_reason(error)}); {advice}'):
        return ocp.CheckpointManager(folder, options=options)


@contextlib.contextmanager
def closing_checkpoints(manager: ocp.CheckpointManager) -> Iterator[ocp.CheckpointManager]:
    """Wait for the last save at the end of the block."""
    try:
        yield manager
    except BaseException:
        # A save that failed would be raised again, and hide the error that ended the block.
        with contextlib.suppress(Exception):
            manager.close()
        raise
    with _unwritten(manager):
        manager.close()


@contextlib.contextmanager
def _unwritten(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax raises whatever the layer below met
        raise_lost_peer(error)
        reason = re.search('No space left on device|Disk quota exceeded|File too large', str(error))
        steps = [int(path.name) for path in Path(manager.directory).iterdir() if path.name.isdecimal()]
        kept = f'the last whole one is of step {max(steps)}' if steps else 'there is none yet'
        cause, advice = (reason[0], 'make room there') if reason else (orbax_reason(error), 'mend that')
        raise UserError(
            f'a checkpoint could not be written to {manager.directory} ({cause}); {kept}: {advice}, and the '
            'same command goes on from it'
        ) from error


class _LatestAndBest:
    """Orbax's `PreservationPolicy`: keeps the latest two, the best, and what a stop has just saved.

    A stop's own checkpoint counts neither as one of the latest nor as the best, so that a run which was
    stopped ends with the checkpoints of an undisturbed run.
    """

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each of `checkpoints`, which are in the order of their steps."""
        del context
        if not checkpoints:
            return []
        # Checkpoints of older versions and of imports have no such mark.
        metrics = {info.step: info.metrics or {} for info in checkpoints}
        scheduled = [step for step, values in metrics.items() if values.get('scheduled', True)]
        best = best_of({step: values.get('error', math.inf) for step, values in metrics.items()})
        kept = {checkpoints[-1].step, *scheduled[-2:], best}
        return [info.step in kept for info in checkpoints]


def best_of(errors: Mapping[int, float]) -> int | None:
    """The step with the lowest of the errors by step, the latest of equals; infinite ones do not count."""
    evaluated = [step for step in sorted(errors, reverse=True) if math.isfinite(errors[step])]
    return min(evaluated, key=errors.get, default=None)


def save_checkpoint(
    manager: ocp.CheckpointManager,
    state: TrainState,
    record: dict[str, Any],
    *,
    step: int,
    error: float | None,
    scheduled: bool = True,
) -> None:
    """Start a save of `step` in the background, once the one before it is done.

    Args:
      state: copied to the host before this returns, so that its buffers may be donated.
      record: JSON to keep beside it.
      step: names the checkpoint; saving a step twice writes it once.
      error: percent, decides which checkpoint is the best, the latest of equals; None where this step was not
        evaluated.
      scheduled: whether an undisturbed run saves this step too; False is kept only while it is the latest.

    Raises:
      UserError: this save or the one before it could not be written.
    """
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(as_tree(state)), record=ocp.args.JsonSave(_signed(state, record))
    )
    # The next save raises what this one meets in the background.
    with _unwritten(manager):
        manager.save(step, args=items, metrics=_metrics(error, scheduled))


def amend_checkpoint(
    manager: ocp.CheckpointManager, state: TrainState, record: dict[str, Any], *, step: int, error: float
) -> None:
    """Write the evaluation of `step` beside its checkpoint, whose arrays stay as they are.

    A stop saves a step before its evaluation; an undisturbed run evaluates first. The arguments are those of
    `save_checkpoint`.
    """
    folder = Path(manager.directory) / str(step)
    with failing_together(), _unwritten(manager):
        if is_primary():
            # The metrics first: a run that is killed between the two evaluates again, and writes both.
            write_atomically(folder / 'metrics' / 'metrics', json.dumps(_metrics(error, scheduled=True)))
            write_atomically(folder / 'record' / 'metadata', json.dumps(_signed(state, record)))
    # Orbax remembers the metrics that it read first.
    manager.reload()


def _metrics(error: float | None, scheduled: bool) -> dict[str, float]:
    # A NumPy or JAX scalar among them would fail in the background thread and lose the checkpoint. A step
    # that was not evaluated, as on SIGTERM, is never the best.
    return {'error': math.inf if error is None else float(error), 'scheduled': float(scheduled)}


def _signed(state: TrainState, record: dict[str, Any]) -> dict[str, Any]:
    return {'sha256': sha256_of(state, record), 'record': record}


def as_tree(state: TrainState) -> dict[str, Any]:
    """The fields of `state` as they are saved."""
    # Orbax refuses a target with a field that is not on the disk, even an empty one. Versions that knew
    # MetaSemi alone saved no state of the method.
    return {name: value for name, value in vars(state).items() if name != 'method' or jax.tree.leaves(value)}


def sha256_of(state: TrainState, record: dict[str, Any]) -> str:
    """SHA-256, in hex, of what a checkpoint holds."""
    # Of the arrays too: most of the bytes of a compressed float are stored as they are, and a flipped bit in
    # them decodes to another number without a complaint.
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(state)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def raise_lost_peer(error: Exception) -> None:
    """Raise what the devices report when another process is gone, which is no fault of the checkpoint."""
    if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
        raise error


def orbax_reason(error: Exception) -> str:
    """What an exception of Orbax says, on one line."""
    # TensorStore begins with a code, and goes on with all its settings.
    if code := re.match(r'([A-Z]+_[A-Z_]+): ', str(error)):
        return code.group(1).replace('_', ' ').lower()
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
