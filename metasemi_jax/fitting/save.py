"""The folder of a run from a network that was fitted in memory."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.identity import data_sha256
from metasemi_jax.data.sources.image_arrays import load_npz
from metasemi_jax.data.splits import split_sha256
from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.files import folder_atomically
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.experiment import build_model, build_optimizer
from metasemi_jax.workdir import Workdir


def save_run(
    folder: str | Path,
    config: dict[str, Any],
    variables: dict,
    form: InputSpec,
    class_names: tuple[str, ...],
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> None:
    """Write a run that is trained to its end, as predict, export and visualize read it.

    Args:
      folder: a folder that is empty or does not exist yet.
      config: the nested fields of the fit.
      variables: {'params': ..., 'batch_stats': ...}, NumPy arrays.
      images: uint8 [N, H, W, C], the images of the fit, to keep beside the network; None keeps none.
      labels: int32 [N], -1 where there is no label.

    Raises:
      UserError: a folder that holds something or cannot be written.
    """
    path = Path(folder).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f'{path} is a file, or a folder that is not empty; name a new folder')
    config = ml_collections.ConfigDict(config)
    record = {'history': [], 'split_sha256': None, 'data_sha256': None}
    labeled: list[str] = []
    with (
        as_user_error(OSError, lambda e: f'{path} cannot be written ({reason_of(e)}); name another folder'),
        folder_atomically(path) as beside,
    ):
        files = Workdir(beside)
        if images is not None:
            np.savez_compressed(files.images, x=images, y=labels, class_names=np.array(class_names))
            dataset = load_npz(files.images, image_size=0, memory_budget=images.nbytes)
            labeled = dataset.train_ids[labels >= 0].tolist()
            record |= {'split_sha256': split_sha256(labeled), 'data_sha256': data_sha256(dataset, [])}
            config.data.path = str(path / files.images.name)
        files.create(config, labeled, class_names=class_names, input_spec=form)
        with closing_checkpoints(open_checkpoints(files.checkpoints)) as manager:
            save_checkpoint(
                manager,
                _state(config, variables, len(class_names)),
                record,
                step=config.total_steps,
                error=None,
            )


def _state(config: Any, variables: dict, num_classes: int) -> TrainState:
    """The state after the last step, with a fresh optimizer state: only the weights are known."""
    variables = jax.tree.map(jnp.asarray, variables)
    model, _ = build_model(config, num_classes)
    tx = build_optimizer(config, model)
    state = TrainState.create(variables, tx, with_ema=config.ema_decay > 0)
    return state.replace(step=jnp.asarray(config.total_steps, jnp.int32))
