"""Finds the checkpoint from which a run goes on."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from metasemi_jax.distributed.multi_host import failing_together, is_primary
from metasemi_jax.distributed.sharding import place, replicated
from metasemi_jax.errors import UserError
from metasemi_jax.progress import say
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import open_checkpoints
from metasemi_jax.training.damaged import check_readable, damaged_folder, set_aside
from metasemi_jax.training.experiment import Experiment
from metasemi_jax.training.orbax_workarounds import steps_without_listing
from metasemi_jax.training.restore import Restored, restore_newest


def open_and_restore(
    folder: Path, experiment: Experiment, mesh: Mesh
) -> tuple[ocp.CheckpointManager, TrainState, dict[str, Any] | None]:
    """Open the checkpoints of a run, and restore state and record from the newest that can be read.

    Damaged ones are named and moved to `damaged_checkpoints/`. In a new run the state is that before the
    first step, the record None. The state lies on every device of `mesh`, whatever it was saved from.

    Raises:
      UserError: no checkpoint can be read, or it was trained on another split or other images.
    """
    with failing_together():
        check_readable(folder)
    _set_aside(folder, dict.fromkeys(steps_without_listing(folder), 'its metrics are damaged'))
    manager = open_checkpoints(folder)
    # A copy: the loop donates the arrays, and a rollback may begin with them once more.
    state = place(jax.tree.map(np.array, experiment.state), replicated(mesh))
    try:
        restored = restore_newest(manager, state)
        if restored is None:
            _check_new(folder)
            return manager, state, None
        _check_same_data(restored, experiment, folder)
    except UserError:
        manager.close()
        raise
    if restored.damaged:
        manager.close()
        _set_aside(folder, restored.damaged)
        manager = open_checkpoints(folder)
    return manager, restored.state, restored.record


def _check_new(folder: Path) -> None:
    aside = damaged_folder(folder)
    if aside.exists():
        raise UserError(
            f'no checkpoint is left in {folder}, and what was there lies damaged in {aside}; put back a good '
            'copy, or start again in a new workdir'
        )


def _set_aside(folder: Path, damaged: dict[int, str]) -> None:
    with failing_together():
        for step, reason in damaged.items():
            if is_primary():
                moved = set_aside(folder, step)
                say(f'the checkpoint of step {step} cannot be read ({reason}); it was moved to {moved}')


def _check_same_data(restored: Restored, experiment: Experiment, folder: Path) -> None:
    # None: torch_import made the run without the images, so no split has been used yet.
    if restored.record['split_sha256'] not in (None, experiment.split_sha256):
        raise UserError(
            f'labeled_ids.txt beside {folder} is not the split that this run was trained on; '
            'put the old file back, or use another workdir'
        )
    if not experiment.is_same_data(restored.record.get('data_sha256')):
        raise UserError(
            f'the images have changed since {folder} was begun: some were added, removed, renamed, '
            'relabeled, replaced or held out; put the old ones back, or use another workdir'
        )
