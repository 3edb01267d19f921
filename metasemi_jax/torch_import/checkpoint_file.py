"""Reads checkpoints of the authors' PyTorch program, and converts the momentum of their optimizer."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.pretrained.torch_file import read_torch
from metasemi_jax.pretrained.weights_file import naming_file
from metasemi_jax.torch_import.state_dict import convert_state_dict, parameter_keys

IMAGENET_KEYS = {'epoch': 'step', 'state_dict': 'model', 'best_acc1': 'best_acc'}
IMAGENET_UNLABELED, IMAGENET_BATCH = 1_153_051, 512  # images in an epoch and in a step


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `.pth` file of the authors' program: a dict with `step`, `model`, `best_acc`, `optimizer`.

    Checkpoints of their ImageNet program get the same keys (see `rename_imagenet`).

    The reader accepts tensors, numbers, strings and containers of these. It refuses a pickle that would call
    anything else, and runs nothing of it.

    Raises:
      UserError: no such file, or one with other contents.
    """
    path = Path(path)
    with naming_file(path):
        checkpoint = read_torch(path)
    if isinstance(checkpoint, Mapping) and {'epoch', 'state_dict'} <= checkpoint.keys():
        checkpoint = rename_imagenet(checkpoint)
    for key in ('step', 'model'):
        if not isinstance(checkpoint, Mapping) or key not in checkpoint:
            raise UserError(f"{path} has no '{key}': it is no checkpoint of the authors' program")
    return dict(checkpoint)


def convert_momentum(name: str, state_dict: Mapping[str, Any], optimizer: Any) -> dict[str, Any] | None:
    """Convert the momentum buffers of PyTorch's SGD to the trace of `make_optimizer('sgd')`.

    The numbers are the same: both optimizers add the weight decay to the gradient first, and both keep the
    learning rate out of the buffer.

    Args:
      name, state_dict: as in `convert_state_dict`.
      optimizer: `torch.optim.SGD.state_dict()`, its parameters in the order of `model.parameters()`.

    Returns:
      Arrays in the structure of the parameters, 0 for a parameter without a buffer; None if none has one.

    Raises:
      UserError: the buffers do not fit this network.
    """
    unlike = (TypeError, KeyError, AttributeError)
    with as_user_error(unlike, "the checkpoint's 'optimizer' is no state of PyTorch's SGD"):
        ids = [i for group in optimizer['param_groups'] for i in group['params']]
        buffers = [(optimizer['state'].get(i) or {}).get('momentum_buffer') for i in ids]
    if all(buffer is None for buffer in buffers):
        return None
    keys = parameter_keys(state_dict)
    if len(keys) != len(ids):
        raise UserError(f"the checkpoint's optimizer has {len(ids)} parameters, its model {len(keys)}")
    momentum = dict(state_dict)
    for key, buffer in zip(keys, buffers, strict=True):
        momentum[key] = state_dict[key] * 0 if buffer is None else buffer
    with as_user_error(UserError, lambda error: f"the checkpoint's momentum does not fit its model: {error}"):
        return convert_state_dict(name, momentum)['params']


def rename_imagenet(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the ImageNet program with the keys of the others.

    That program writes `epoch`, `state_dict` and `best_acc1`, and counts epochs of the unlabeled images; here
    they become `step`, `model` and `best_acc`, and steps.
    """
    renamed = {IMAGENET_KEYS.get(key, key): value for key, value in checkpoint.items()}
    epochs = renamed['step']
    if isinstance(epochs, int | float) and math.isfinite(epochs):
        renamed['step'] = math.ceil(epochs * IMAGENET_UNLABELED / IMAGENET_BATCH)
    return renamed
