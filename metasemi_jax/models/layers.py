"""Layers that the networks share, with the initialisation of PyTorch's defaults."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.errors import UserError
from metasemi_jax.models.max_pool import max_pool
from metasemi_jax.models.winograd import conv_general_dilated

Dtype = Any

# Uniform ±1/√fan_in has the variance 1/(3 fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# Normal with the standard deviation √(2 / (k·k·out)): Shake-Shake's convolutions and torchvision's ResNets.
normal_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """Biases uniform ±1/√fan_in, as PyTorch's linear and convolution layers draw them."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def at_least_float32(dtype: Dtype) -> Dtype:
    """The dtype for parameters, statistics and logits where the network computes in `dtype`."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def precision(dtype: Dtype) -> jax.lax.Precision | None:
    """What products of `dtype` ask of an accelerator: all digits of float32, the default of narrower ones.

    By default GPUs multiply float32 numbers as TF32, TPUs as bfloat16. Derivatives inherit the precision.
    """
    return jax.lax.Precision.HIGHEST if jnp.finfo(dtype).bits >= 32 else None


def batch_norm(
    train: bool, dtype: Dtype, name: str, *, momentum: float = 0.9, epsilon: float = 1e-5
) -> nn.BatchNorm:
    """BatchNorm as in the recipe; running averages keep `momentum`, 0.9 of PyTorch's default.

    Flax stores the *biased* batch variance, PyTorch the unbiased one, n/(n-1) times as large at n values a
    channel: larger by 8e-6 at 128 × 32 × 32, by 2.2e-4 at 128 × 6 × 6, ConvLarge's last blocks.
    """
    wide = at_least_float32(dtype)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=wide,
        name=name,
    )


def conv(
    features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | str | None = None,
    kernel_init: nn.initializers.Initializer = normal_fan_out,
    bias_init: nn.initializers.Initializer | None = None,
    dtype: Dtype,
    name: str,
) -> nn.Conv:
    """A convolution, by default as residual networks draw it; without bias unless `bias_init` is given."""
    # Explicit padding: 'SAME' pads an even size at a stride of 2 on the far side only, PyTorch on both.
    padding = kernel_size // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=stride,
        padding=padding,
        feature_group_count=groups,
        use_bias=bias_init is not None,
        kernel_init=kernel_init,
        bias_init=bias_init or nn.initializers.zeros,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        precision=precision(dtype),
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def linear(
    features: int,
    dtype: Dtype,
    name: str,
    *,
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = uniform_fan_in,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> nn.Dense:
    """A linear layer, by default with weights as PyTorch draws them."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        precision=precision(dtype),
        name=name,
    )


class ConvBlock(nn.Module):
    """Convolution without bias, BatchNorm, LeakyReLU 0.1: [B, H, W, C] -> [B, H', W', features]."""

    features: int
    kernel_size: int = 3
    padding: str = 'SAME'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        uniform_conv = functools.partial(conv, kernel_init=uniform_fan_in, dtype=self.dtype, name='conv')
        x = uniform_conv(self.features, self.kernel_size, padding=self.padding)(x)
        x = batch_norm(train, self.dtype, 'bn')(x)
        return nn.leaky_relu(x, 0.1)


class PoolDropout(nn.Module):
    """2×2 max pool, then dropout of whole feature maps; off in evaluation, or where no key is given."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = max_pool(x, 2, stride=2)
        off = not (train and self.has_rng('dropout'))
        return nn.Dropout(self.rate, broadcast_dims=(1, 2), deterministic=off)(x)


def classified(
    features: Array,
    model: nn.Module,
    return_features: bool,
    *,
    kernel_init: nn.initializers.Initializer = uniform_fan_in,
    bias_init: nn.initializers.Initializer | None = None,
) -> Array | tuple[Array, Array]:
    """What `model` returns of features [B, D]: logits [B, K], and the features if they are wanted.

    The last linear layer computes in float32 or wider, whatever the network computes in.
    """
    inits = {'kernel_init': kernel_init, 'bias_init': bias_init or uniform_bias(features.shape[-1])}
    last = linear(model.num_classes, at_least_float32(model.dtype), 'classifier', **inits)
    return (last(features), features) if return_features else last(features)


def check_image_size(x: Array, smallest: int, *, model: str, advice: str) -> None:
    """Refuse images [B, H, W, C] of which the layers of `model` would leave nothing."""
    height, width = x.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"model '{model}' needs images of at least {smallest}×{smallest}, not {height}×{width}; {advice}"
        )


def global_mean(x: Array) -> Array:
    """Mean over height and width, in float32 or wider: [B, H, W, C] -> [B, C]."""
    return jnp.mean(x.astype(at_least_float32(x.dtype)), axis=(1, 2))
