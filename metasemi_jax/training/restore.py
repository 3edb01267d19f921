"""Reads checkpoints back, the newest whole one or that of a step; a UserError names what is damaged."""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from metasemi_jax.distributed.multi_host import anywhere
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import as_tree, best_of, orbax_reason, raise_lost_peer, sha256_of
from metasemi_jax.training.orbax_workarounds import saved_tree

# Failures of the machine or the user: the file itself may be whole.
_PASSING = (
    r'too many open files|cannot allocate memory|out of memory|resource.exhausted|permission.denied|'
    r'input/output error|stale file handle|start new thread'
)


class Restored(NamedTuple):
    """A checkpoint read back."""

    state: TrainState
    record: dict[str, Any]  # checkpoint metadata: what the loop keeps beside the arrays; JSON
    damaged: dict[int, str]  # newer checkpoints that cannot be read: step -> why


def restore_newest(manager: ocp.CheckpointManager, state: TrainState) -> Restored | None:
    """The newest checkpoint that can be read, or None where there is none at all.

    Args:
      state: gives structure, dtypes and placement; its values are not used. The checkpoint may come from
        another number of devices or processes.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    target = as_tree(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
    damaged: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        restored = None
        try:
            restored = _restore(manager, step, target)
        except Exception as error:  # Orbax raises whatever the layer below met
            raise_lost_peer(error)
            _raise_passing(manager, step, error)
            damaged[step] = orbax_reason(error)
        # All processes go on from the same one.
        if not anywhere(restored is None):
            return Restored(*restored, damaged)
        damaged.setdefault(step, 'another process cannot read it')
    if damaged:
        steps = ', '.join(f'{step} ({reason})' for step, reason in damaged.items())
        raise UserError(
            f'no checkpoint in {manager.directory} can be read: {steps}; '
            'put back a good copy, or start again in a new workdir'
        )
    return None


def best_step(manager: ocp.CheckpointManager) -> int | None:
    """The checkpoint with the lowest error, the latest of equals; None where none was evaluated."""
    unread = f'the errors beside {manager.directory} cannot be read'
    with as_user_error(Exception, lambda error: f'{unread} ({orbax_reason(error)})'):
        return best_of({step: manager.metrics(step)['error'] for step in manager.all_steps()})


def restore_step(manager: ocp.CheckpointManager, state: TrainState, step: int) -> Restored:
    """The checkpoint of `step`, in the structure, dtypes and placement of `state`.

    The method's own state is the saved one, whatever `state` holds: a caller that needs only the network has
    no method.
    """
    target = as_tree(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
    with _naming(manager, step):
        target |= _saved_method(Path(manager.directory) / str(step) / 'state', target['step'].sharding)
        return Restored(*_restore(manager, step, target), {})


def saved_shapes(manager: ocp.CheckpointManager, step: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in the checkpoint of `step`: {'block1/conv/kernel': (3, 3, 1, 64), ...}."""
    with _naming(manager, step):
        saved = saved_tree(Path(manager.directory) / str(step) / 'state')['params']
    return {name: tuple(leaf.shape) for name, leaf in flatten_dict(saved, sep='/').items()}


def _naming(manager: ocp.CheckpointManager, step: int) -> AbstractContextManager[None]:
    """Make whatever fails in the block a UserError that names the checkpoint."""
    unread = f'the checkpoint {manager.directory / str(step)} cannot be read'
    advice = 'put back a good copy, or start the training again: it goes on from the one before'
    return as_user_error(Exception, lambda error: f'{unread} ({orbax_reason(error)}); {advice}')


def _raise_passing(manager: ocp.CheckpointManager, step: int, error: Exception) -> None:
    """Raise if the cause may pass, so that nobody calls a whole checkpoint damaged."""
    if isinstance(error, MemoryError) or (found := re.search(_PASSING, str(error), re.IGNORECASE)):
        reason = 'out of memory' if isinstance(error, MemoryError) else found[0]
        raise UserError(
            f'the checkpoint {manager.directory / str(step)} cannot be read now ({reason}); nothing was '
            'moved or lost: mend that, and the same command goes on'
        ) from error


def _restore(
    manager: ocp.CheckpointManager, step: int, target: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
    restored = manager.restore(step, args=items)
    state, signed = TrainState(**restored['state']), restored['record']
    if signed['sha256'] != sha256_of(state, signed['record']):
        raise ValueError('its contents are not what was saved')
    return state, signed['record']


def _saved_method(folder: Path, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    saved = saved_tree(folder)
    if 'method' not in saved:
        return {}

    def on_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return {'method': jax.tree.map(on_sharding, saved['method'])}
