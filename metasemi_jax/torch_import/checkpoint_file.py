"""Checkpoints of the authors' PyTorch program: reading the file, and the optimizer's momentum."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasemi_jax.errors import UserError
from metasemi_jax.pretrained.torch_file import read_torch
from metasemi_jax.torch_import.state_dict import convert_state_dict, parameter_keys

IMAGENET_KEYS = {'epoch': 'step', 'state_dict': 'model', 'best_acc1': 'best_acc'}
IMAGENET_UNLABELED, IMAGENET_BATCH = 1_153_051, 512  # images of an epoch, and of a step


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `.pth` file of the authors' program: a dict with `step`, `model`, `best_acc`, `optimizer`.

    Their ImageNet program names these `epoch`, `state_dict`, `best_acc1`, `optimizer`, and counts epochs of
    the unlabeled images. Returned are the names above, and steps.

    Weights only: tensors, numbers, strings and containers of them. A pickle that would call anything else is
    refused, and not run.

    Raises:
      UserError: no such file, or one with other contents.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: there is no such file')
    try:
        checkpoint = read_torch(path)
    except ValueError as error:
        raise UserError(f'{path} {error}') from error
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror or error})') from error
    if isinstance(checkpoint, Mapping) and {'epoch', 'state_dict'} <= checkpoint.keys():
        checkpoint = rename_imagenet(checkpoint)
    for key in ('step', 'model'):
        if not isinstance(checkpoint, Mapping) or key not in checkpoint:
            raise UserError(f"{path} has no '{key}': it is no checkpoint of the authors' program")
    return dict(checkpoint)


def convert_momentum(name: str, state_dict: Mapping[str, Any], optimizer: Any) -> dict[str, Any] | None:
    """The momentum buffers of PyTorch's SGD as Flax parameters, the trace of `optimizer.sgd_momentum`.

    Both add the weight decay to the gradient first and keep the learning rate out of the buffer, so the
    numbers are the same.

    Args:
      name, state_dict: as in `convert_state_dict`.
      optimizer: `torch.optim.SGD.state_dict()`, its parameters in the order of `model.parameters()`.

    Returns:
      Arrays of the structure of the parameters, zero where a parameter has no buffer; None where none has.

    Raises:
      UserError: it is not the optimizer of this network.
    """
    try:
        ids = [i for group in optimizer['param_groups'] for i in group['params']]
        buffers = [(optimizer['state'].get(i) or {}).get('momentum_buffer') for i in ids]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError("the checkpoint's 'optimizer' is no state of PyTorch's SGD") from error
    if all(buffer is None for buffer in buffers):
        return None
    keys = parameter_keys(state_dict)
    if len(keys) != len(ids):
        raise UserError(f"the checkpoint's optimizer has {len(ids)} parameters, its model {len(keys)}")
    momentum = dict(state_dict)
    for key, buffer in zip(keys, buffers, strict=True):
        momentum[key] = state_dict[key] * 0 if buffer is None else buffer
    try:
        return convert_state_dict(name, momentum)['params']
    except UserError as error:
        raise UserError(f"the checkpoint's momentum does not fit its model: {error}") from error


def rename_imagenet(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the ImageNet program with the keys of the others, and steps for its epochs."""
    renamed = {IMAGENET_KEYS.get(key, key): value for key, value in checkpoint.items()}
    epochs = renamed['step']
    if isinstance(epochs, int | float) and math.isfinite(epochs):
        renamed['step'] = math.ceil(epochs * IMAGENET_UNLABELED / IMAGENET_BATCH)
    return renamed
