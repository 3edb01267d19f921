"""A run's workdir from a checkpoint of the authors' PyTorch program, to predict with or to train on.

    python -m metasemi_jax.torch_import model_best.pth --model=conv_large --workdir=runs/official

`--config=configs/cifar10.py` and `--config.FIELD=VALUE` name the experiment, as for `main.py`; by default it
is `configs/svhn.py`. PyTorch is not needed.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import run_command
from metasemi_jax.command.flags import define_config, define_workdir, required_workdir
from metasemi_jax.config.checks import check_config
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.splits import Split, split_positions, split_sha256
from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.files import folder_atomically, write_json
from metasemi_jax.models import MODELS
from metasemi_jax.torch_import.checkpoint_file import convert_momentum, read_checkpoint
from metasemi_jax.torch_import.state_dict import Sizes, convert_state_dict, infer_sizes
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.experiment import build_optimizer
from metasemi_jax.training.experiment_data import choose_split, input_spec, load_data
from metasemi_jax.workdir import Workdir

DEFAULT_CONFIG = Path('configs/svhn.py')


def import_checkpoint(checkpoint: Mapping[str, Any], config: Any, workdir: str | Path) -> list[str]:
    """Make `workdir` a run of `config` that goes on where `checkpoint` stopped.

    Args:
      checkpoint: as `read_checkpoint` returns it.
      config: as `train_and_evaluate` takes it; `model.name` says which network it is.
      workdir: a folder that is empty or does not exist yet.

    Returns:
      Lines for people: what was made, and what could not be.

    Raises:
      UserError: a checkpoint, config and workdir that do not fit one another. Nothing was written.
    """
    _check_target(workdir, config)
    check_config(config)
    name = config.model.name
    variables = convert_state_dict(name, checkpoint['model'])
    _check_finite(variables)
    sizes = infer_sizes(name, checkpoint['model'])
    _check_width(config, sizes)
    for group, its, title in (('optimizer', 'sgd', 'SGD'), ('method', 'metasemi', 'MetaSemi')):
        if config[group].name != its:
            raise UserError(
                f'the checkpoint is of {title}, not of {group}.name={config[group].name}; '
                f'add --config.{group}.name={its}'
            )
    step = _step(checkpoint['step'], config.total_steps)
    optimizer = checkpoint.get('optimizer')
    momentum = convert_momentum(name, checkpoint['model'], optimizer) if optimizer else None
    dataset, note = _load_data(config, sizes)
    split = choose_split(config, dataset) if dataset else None
    state = _train_state(config, variables, momentum, step)
    _write(Path(workdir).absolute(), config, dataset, split, state)
    return [
        f'{workdir}: {name} of width {sizes.width}, {sizes.num_classes} classes, after {step:,} of '
        f'{config.total_steps:,} steps, '
        + ('with the momentum' if momentum is not None else 'without momentum (it has none)')
        + f' of the checkpoint; its best accuracy is {_best_accuracy(checkpoint)}',
        *_differences(config, optimizer),
        note,
    ]


def _check_target(workdir: str | Path, config: Any) -> None:
    if config.get('recipe') == 'auto':
        raise UserError(
            "recipe='auto' leaves open what the checkpoint was trained with; name its experiment by --config"
        )
    path = Workdir(workdir).path
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f'--workdir={path} is not empty; name a new folder')
    # With no config.json there, the config is not looked at.
    Workdir(path).check(None)


def _check_finite(variables: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(variables):
        if not np.isfinite(leaf.astype(np.float32)).all():
            raise UserError(f'the weights of the checkpoint are not finite ({jax.tree_util.keystr(path)})')


def _check_width(config: Any, sizes: Sizes) -> None:
    default = MODELS[config.model.name].width
    if sizes.width != (config.model.width or default):
        raise UserError(
            f'the checkpoint is of width {sizes.width}, not {config.model.width or default}; '
            f'add --config.model.width={sizes.width}'
        )


def _step(value: Any, total_steps: int) -> int:
    # OverflowError: an infinite step.
    unlike = (TypeError, ValueError, OverflowError)
    with as_user_error(unlike, f"the checkpoint's 'step' is no number: {str(value)[:40]}"):
        step = int(value)
    if not 0 <= step <= total_steps:
        raise UserError(
            f"the checkpoint's step {step} is not within total_steps={total_steps}; name its experiment with "
            f'--config, or add --config.total_steps={max(step, 1)}'
        )
    return step


def _load_data(config: Any, sizes: Sizes) -> tuple[Dataset | None, str]:
    """The images and a line on their split; None where they are not at hand."""
    try:
        dataset = load_data(config)
    except UserError as error:
        return None, (
            'labeled_ids.txt is drawn when training continues, and what predict needs (class_names.json, '
            f'input.json) is written then; the images are missing now: {error}'
        )
    for what, here, there in (
        ('classes', sizes.num_classes, dataset.num_classes),
        ('channels', sizes.channels, dataset.image_shape[-1]),
    ):
        if here != there:
            raise UserError(
                f"the checkpoint has {here} {what}, data.name '{config.data.name}' has {there}; "
                'name the experiment with --config'
            )
    return dataset, (
        "labeled_ids.txt is this program's draw: which images the checkpoint was trained on, it does not say"
    )


def _train_state(config: Any, variables: Any, momentum: Any, step: int) -> Any:
    def float32(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)

    state = TrainState.create(float32(variables), build_optimizer(config), with_ema=config.ema_decay > 0)
    opt_state = state.opt_state
    if momentum is not None:
        opt_state = optax.tree_utils.tree_set(opt_state, trace=float32(momentum))
    return state.replace(step=jnp.asarray(step, jnp.int32), opt_state=opt_state)


def _write(path: Path, config: Any, dataset: Dataset | None, split: Split | None, state: TrainState) -> None:
    """Write the whole run or nothing: a run without its checkpoint would start anew."""
    # None: the first run that can load the images draws the split.
    record = {'split_sha256': split_sha256(split.labeled) if split else None, 'history': [], 'seconds': 0.0}
    with (
        as_user_error(OSError, lambda error: f'--workdir={path} cannot be written ({reason_of(error)})'),
        folder_atomically(path) as beside,
    ):
        files = Workdir(beside)
        if dataset:
            pools = split_positions(dataset.train_ids, split.labeled, split.validation)
            files.create(
                config,
                split.labeled,
                validation_ids=split.validation,
                class_names=dataset.class_names,
                input_spec=input_spec(config, dataset, np.concatenate(pools)),
            )
        else:
            write_json(files.config, config.to_dict())
        with closing_checkpoints(open_checkpoints(files.checkpoints)) as manager:
            save_checkpoint(manager, state, record, step=int(state.step), error=None)


def _best_accuracy(checkpoint: Mapping[str, Any]) -> str:
    try:
        return f'{float(checkpoint["best_acc"]):.4g}'
    except (KeyError, TypeError, ValueError):
        return 'not recorded'


def _differences(config: Any, optimizer: Any) -> list[str]:
    """Warnings about settings of the checkpoint's optimizer that differ from the config, which counts."""
    group = optimizer['param_groups'][0] if optimizer and optimizer.get('param_groups') else {}
    return [
        f'its {name} was {group[name]}, the config has {config.optimizer[name]}: is it the right --config?'
        for name in ('weight_decay', 'momentum')
        if name in group and group[name] != config.optimizer[name]
    ]


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    # Flags of its own, so that a program may import this module beside `main.py`.
    values = flags.FlagValues()
    flags.DEFINE_string('model', None, "The checkpoint's network.", flag_values=values)
    define_workdir(values, 'Folder of the run; a new one.')
    define_config(values)
    run_command(
        lambda file: _import(file, values),
        argv,
        default_config=DEFAULT_CONFIG,
        values=values,
        argument='checkpoint: ... torch_import model_best.pth --model=conv_large --workdir=runs/official',
    )


def _import(file: str, values: flags.FlagValues) -> None:
    config, model = values['config'].value, values['model'].value
    workdir = required_workdir(values['workdir'].value, 'the folder of the run to make')
    # The arguments that give main.py the same config, however they were written here.
    overrides = [f'--config={config_flags.get_config_filename(values["config"])}']
    for field, value in config_flags.get_override_values(values['config']).items():
        overrides.append(f'--config.{field}={value}')
    if model and model != config.model.name:
        config.model.name = model
        overrides.append(f'--config.model.name={model}')
    _check_target(workdir, config)
    checkpoint = read_checkpoint(file)
    sizes = infer_sizes(config.model.name, checkpoint['model'])
    if config.model.width is None and sizes.width != MODELS[config.model.name].width:
        config.model.width = sizes.width
        overrides.append(f'--config.model.width={sizes.width}')
    lines = import_checkpoint(checkpoint, config, workdir)
    command = ['python', 'main.py', *overrides, f'--workdir={workdir}']
    print('\n'.join([*lines, f'to continue: {shlex.join(command)}']))


if __name__ == '__main__':
    main(sys.argv)
