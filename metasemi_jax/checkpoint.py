"""Orbax checkpoints: the latest two and the best, written in the background."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from metasemi_jax.errors import UserError
from metasemi_jax.train_step import TrainState


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: TrainState
    record: dict[str, Any]  # what the loop keeps beside the arrays; JSON


def open_checkpoints(folder: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints; `close` it, or the last save may be lost.

    Args:
      folder: made if it is missing.
      read_only: to look into a run that may be going on: nothing is made, and what it is writing stays.

    Raises:
      UserError: what lies there cannot be read.
    """

    # Sorted ascending and the last one kept, hence the minus.
    def goodness(metrics: dict[str, float]) -> float:
        return -metrics['error']

    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(2), preservation_policy.BestN(get_metric_fn=goodness, n=1)]
        ),
        # Without it the metrics are not written, and the next process takes the best for any other.
        best_fn=goodness,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
    )
    try:
        return ocp.CheckpointManager(folder, options=options)
    except Exception as error:  # Orbax raises whatever the layer below met
        raise UserError(
            f'{folder} cannot be read ({_reason(error)}); move it away, or what is damaged in it'
        ) from error


def save_checkpoint(
    manager: ocp.CheckpointManager,
    state: TrainState,
    record: dict[str, Any],
    *,
    step: int,
    error: float | None,
) -> None:
    """Start a save of `step` in the background, once the one before it is done.

    Args:
      manager: from `open_checkpoints`.
      state: copied to the host before this returns, so that its buffers may be donated.
      record: JSON to keep beside it.
      step: names the checkpoint; saving a step twice writes it once.
      error: percent, decides which checkpoint is the best, the latest of equals; None where this step was not
        evaluated.
    """
    if step in manager.all_steps():
        return
    # A NumPy or JAX scalar among the metrics would fail in the background thread and lose the checkpoint. A
    # step that was not evaluated, as on SIGTERM, is never the best.
    metrics = {'error': math.inf if error is None else float(error)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
    manager.save(step, args=items, metrics=metrics)


def restore_latest(manager: ocp.CheckpointManager, state: TrainState) -> Restored | None:
    """The newest checkpoint in the structure, dtypes and placement of `state`, or None where there is none.

    Raises:
      UserError: it cannot be read.
    """
    step = manager.latest_step()
    return None if step is None else restore_step(manager, state, step)


def best_step(manager: ocp.CheckpointManager) -> int | None:
    """The checkpoint with the lowest error, the latest of equals; None where none was evaluated.

    Raises:
      UserError: their errors cannot be read.
    """
    try:
        errors = {step: manager.metrics(step)['error'] for step in sorted(manager.all_steps(), reverse=True)}
    except Exception as error:  # as above
        raise UserError(f'the errors beside {manager.directory} cannot be read ({_reason(error)})') from error
    evaluated = [step for step, error in errors.items() if math.isfinite(error)]
    return min(evaluated, key=errors.get, default=None)


def restore_step(manager: ocp.CheckpointManager, state: TrainState, step: int) -> Restored:
    """The checkpoint of `step`, in the structure, dtypes and placement of `state`.

    Raises:
      UserError: it cannot be read.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
    try:
        restored = manager.restore(step, args=items)
    except Exception as error:  # as above
        raise UserError(
            f'the checkpoint {manager.directory / str(step)} cannot be read ({_reason(error)}); '
            'move that folder away to continue from the one before it'
        ) from error
    return Restored(restored['state'], restored['record'])


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
