"""Orbax checkpoints: the latest two and the best, written in the background."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from metasemi_jax.distributed.multi_host import anywhere, failing_together, is_primary
from metasemi_jax.errors import UserError
from metasemi_jax.files import write_atomically
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.orbax_workarounds import saved_tree, silence_orphans

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
    try:
        return ocp.CheckpointManager(folder, options=options)
    except Exception as error:  # Orbax raises whatever the layer below met
        raise UserError(
            f'{folder} cannot be read ({_reason(error)}); move it away, or what is damaged in it'
        ) from error


@contextlib.contextmanager
def closing_checkpoints(manager: ocp.CheckpointManager) -> Iterator[ocp.CheckpointManager]:
    """Wait for the last save at the end of the block.

    Raises:
      UserError: it could not be written.
    """
    try:
        yield manager
    except BaseException:
        # A save that failed would be reported again, in the place of what ended the block.
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
        _raise_lost_peer(error)
        reason = re.search('No space left on device|Disk quota exceeded|File too large', str(error))
        steps = [int(path.name) for path in Path(manager.directory).iterdir() if path.name.isdecimal()]
        kept = f'the last whole one is of step {max(steps)}' if steps else 'there is none yet'
        cause, advice = (reason[0], 'make room there') if reason else (_reason(error), 'mend that')
        raise UserError(
            f'a checkpoint could not be written to {manager.directory} ({cause}); {kept}: {advice}, and the '
            'same command goes on from it'
        ) from error


def check_readable(folder: Path) -> None:
    """Refuse checkpoints that this process may not read; they are as good as before.

    Args:
      folder: the checkpoints folder. What a run is about to write or to delete there is left out.
    """
    if not folder.exists():
        return
    try:
        for step in folder.iterdir():
            for path in _files_below(step) if step.name.isdecimal() else ():
                with contextlib.suppress(FileNotFoundError):
                    path.open('rb').close()
    except OSError as error:
        raise UserError(
            f'{error.filename or folder} cannot be read ({error.strerror or error}); nothing was moved or '
            'lost: mend that, or start as the user who trained this run'
        ) from error


def _files_below(folder: Path) -> Iterator[Path]:
    # `rglob` passes over a folder that it may not list.
    def listed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=listed):
        yield from (Path(parent, name) for name in names)


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
        best = _best({step: values.get('error', math.inf) for step, values in metrics.items()})
        kept = {checkpoints[-1].step, *scheduled[-2:], best}
        return [info.step in kept for info in checkpoints]


def damaged_folder(folder: Path) -> Path:
    """Folder that keeps the damaged checkpoints of `folder`."""
    return folder.with_name(f'damaged_{folder.name}')


def set_aside(folder: Path, step: int) -> Path:
    """Move the damaged checkpoint of `step` out of the run's way; returns its new place. Deletes nothing."""
    aside = damaged_folder(folder)
    target = next(path for n in itertools.count() if not (path := aside / f'{step}.{n}').exists())
    aside.mkdir(exist_ok=True)
    return (folder / str(step)).rename(target)


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
        state=ocp.args.StandardSave(_tree(state)), record=ocp.args.JsonSave(_signed(state, record))
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

    Raises:
      UserError: it could not be written.
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
    return {'sha256': _sha256(state, record), 'record': record}


def restore_newest(manager: ocp.CheckpointManager, state: TrainState) -> Restored | None:
    """The newest checkpoint that can be read, or None where there is none at all.

    Args:
      state: gives structure, dtypes and placement; its values are not used. The checkpoint may come from
        another number of devices or processes.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    target = _tree(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
    damaged: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        restored = None
        try:
            restored = _restore(manager, step, target)
        except Exception as error:  # Orbax raises whatever the layer below met
            _raise_lost_peer(error)
            _raise_passing(manager, step, error)
            damaged[step] = _reason(error)
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
    """The checkpoint with the lowest error, the latest of equals; None where none was evaluated.

    Raises:
      UserError: their errors cannot be read.
    """
    try:
        return _best({step: manager.metrics(step)['error'] for step in manager.all_steps()})
    except Exception as error:  # as above
        raise UserError(f'the errors beside {manager.directory} cannot be read ({_reason(error)})') from error


def _best(errors: Mapping[int, float]) -> int | None:
    evaluated = [step for step in sorted(errors, reverse=True) if math.isfinite(errors[step])]
    return min(evaluated, key=errors.get, default=None)


def restore_step(manager: ocp.CheckpointManager, state: TrainState, step: int) -> Restored:
    """The checkpoint of `step`, in the structure, dtypes and placement of `state`.

    The method's own state is what was saved, whatever `state` says of it: who looks at a network needs no
    method.

    Raises:
      UserError: it cannot be read.
    """
    target = _tree(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
    try:
        target |= _saved_method(Path(manager.directory) / str(step) / 'state', target['step'].sharding)
        return Restored(*_restore(manager, step, target), {})
    except Exception as error:  # as above
        raise _unreadable(manager, step, error) from error


def saved_shapes(manager: ocp.CheckpointManager, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters in the checkpoint of `step`: {'block1/conv/kernel': (3, 3, 1, 64), ...}.

    Raises:
      UserError: it cannot be read.
    """
    try:
        saved = saved_tree(Path(manager.directory) / str(step) / 'state')['params']
    except Exception as error:  # as above
        raise _unreadable(manager, step, error) from error
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }


def _unreadable(manager: ocp.CheckpointManager, step: int, error: Exception) -> UserError:
    return UserError(
        f'the checkpoint {manager.directory / str(step)} cannot be read ({_reason(error)}); '
        'put back a good copy, or start the training again: it goes on from the one before'
    )


def _raise_lost_peer(error: Exception) -> None:
    if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
        raise error


def _raise_passing(manager: ocp.CheckpointManager, step: int, error: Exception) -> None:
    """Refuse to call damaged what another process, or this one later, can read."""
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
    if signed['sha256'] != _sha256(state, signed['record']):
        raise ValueError('its contents are not what was saved')
    return state, signed['record']


def _tree(state: TrainState) -> dict[str, Any]:
    # Orbax refuses a target with a field that is not on the disk, even an empty one. Versions that knew
    # MetaSemi alone saved no state of the method.
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != 'method' or jax.tree.leaves(value)}


def _saved_method(folder: Path, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    saved = saved_tree(folder)
    if 'method' not in saved:
        return {}

    def on_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return {'method': jax.tree.map(on_sharding, saved['method'])}


def _sha256(state: TrainState, record: dict[str, Any]) -> str:
    # Of the arrays too: most of the bytes of a compressed float are stored as they are, and a flipped bit in
    # them decodes to another number without a complaint.
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(state)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    # TensorStore begins with a code, and goes on with all its settings.
    if code := re.match(r'([A-Z]+_[A-Z_]+): ', str(error)):
        return code.group(1).replace('_', ' ').lower()
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
