"""The networks, by name: Flax modules. Methods see them as two pure functions, see `methods/network.py`.

ConvLarge and ConvSmall, and the two blocks of ResNet, repeat lines on purpose: each reads as the table of its
paper does, layer by layer.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasemi_jax.errors import UserError
from metasemi_jax.models.conv_large import ConvLarge
from metasemi_jax.models.conv_small import ConvSmall
from metasemi_jax.models.efficientnet_lite import EfficientNetLite0
from metasemi_jax.models.layers import at_least_float32
from metasemi_jax.models.mlp import MLP
from metasemi_jax.models.resnet import ResNet18, ResNet50
from metasemi_jax.models.shake_shake import ShakeShake26
from metasemi_jax.models.vision_transformer import VISION_TRANSFORMERS
from metasemi_jax.models.wide_resnet import WideResNet

MODELS = {
    'conv_large': ConvLarge,
    'conv_small': ConvSmall,
    'efficientnet_lite0': EfficientNetLite0,
    'mlp': MLP,
    'resnet18': ResNet18,
    'resnet50': ResNet50,
    'shake_shake26': ShakeShake26,
    'wide_resnet': WideResNet,
    **VISION_TRANSFORMERS,
}


def create_model(name: str, num_classes: int, *, dtype=jnp.float32, **kwargs) -> nn.Module:
    """A network: `model.apply(variables, images [B, H, W, C], train=bool)` -> logits [B, num_classes].

    With `return_features=True` it returns (logits, features [B, D]), the features being what the last linear
    layer sees. In training, pass `mutable=['batch_stats']` for the new running statistics, and a 'dropout'
    key in `rngs`; without the key dropout is off.

    Args:
      name: a key of `MODELS`.
      num_classes: K.
      dtype: dtype of the computation. Parameters, running statistics, features and logits have at least
        float32.
      **kwargs: the network's own options, such as `width` and `dropout_rate`.

    Raises:
      UserError: an unknown name or option.
    """
    if name not in MODELS:
        raise UserError(f"model.name '{name}' is unknown; choose one of {', '.join(sorted(MODELS))}")
    module = MODELS[name]
    options = set(module.__dataclass_fields__) - {'num_classes', 'dtype', 'parent', 'name'}
    unknown = sorted(set(kwargs) - options)
    if unknown:
        known = ', '.join(sorted(options)) or 'none'
        raise UserError(f"model '{name}' has no option '{unknown[0]}'; set it to None; its options: {known}")
    return module(num_classes=num_classes, dtype=dtype, **kwargs)


def init_variables(model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict:
    """Fresh {'params': ..., 'batch_stats': ...} for images of `image_shape` [H, W, C], or features [D]."""
    return _init_program(model, image_shape)(key)


def variable_shapes(model: nn.Module, image_shape: tuple[int, ...]) -> dict:
    """What `init_variables` returns, shapes and dtypes alone; nothing is computed."""
    return jax.eval_shape(lambda: _init(model, jax.random.key(0), image_shape))


@functools.lru_cache(maxsize=16)
def _init_program(model: nn.Module, image_shape: tuple[int, ...]) -> Callable[[jax.Array], dict]:
    # It runs once a run, and on CPU the optimiser would take 7 s over its random draws.
    options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
    return jax.jit(lambda key: _init(model, key, image_shape), compiler_options=options)


def _init(model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict:
    variables = model.init({'params': key}, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    # Flax starts running statistics in float32 even where they will be float64 after one step.
    return jax.tree.map(lambda leaf: leaf.astype(at_least_float32(model.dtype)), variables)
