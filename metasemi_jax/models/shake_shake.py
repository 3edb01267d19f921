"""Shake-Shake-26 2×96d (Gastaldi, 2017) as the authors' program builds it, after Mean Teacher's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.errors import UserError
from metasemi_jax.models.layers import Dtype, batch_norm, classified, conv, global_mean, uniform_bias


class ShakeShake26(nn.Module):
    """3×3 convolution, three stages of four two-branch blocks, global mean, linear.

    Images [B, H, W, C], H and W multiples of 4 -> logits [B, K]. The stages have width, 2·width and 4·width
    channels, 96, 192 and 384 in the recipe. The shake is random in training where a 'dropout' key is given.
    """

    num_classes: int
    width: int = 96
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        if x.shape[1] % 4 or x.shape[2] % 4:
            size = f'{x.shape[1]}×{x.shape[2]}'
            raise UserError(f"model 'shake_shake26' needs sides that are multiples of 4, not {size}")
        x = conv(16, 3, dtype=self.dtype, name='conv1')(x.astype(self.dtype))
        for stage, stride in enumerate((1, 2, 2)):
            for i in range(4):
                x = ShakeBlock(
                    self.width * 2**stage,
                    stride=stride if i == 0 else 1,
                    dtype=self.dtype,
                    name=f'layer{stage + 1}_{i}',
                )(x, train=train)
        return classified(global_mean(x), self, return_features)


class ShakeBlock(nn.Module):
    """Shortcut + shake of two ReLU-conv-BN-ReLU-conv-BN branches: [B, H, W, C] -> [B, H', W', features]."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shortcut = x
        if self.stride > 1:
            shortcut = ShiftDownsample(self.features, self.dtype, name='downsample')(x, train=train)
        elif x.shape[-1] != self.features:
            shortcut = conv(self.features, 1, dtype=self.dtype, name='downsample_conv')(x)
            shortcut = batch_norm(train, self.dtype, 'downsample_bn')(shortcut)
        first, second = self._branch(x, 'a', train), self._branch(x, 'b', train)
        key = self.make_rng('dropout') if train and self.has_rng('dropout') else None
        return shortcut + shake(first, second, key)

    def _branch(self, x: Array, name: str, train: bool) -> Array:
        x = conv(self.features, 3, self.stride, dtype=self.dtype, name=f'conv_{name}1')(nn.relu(x))
        x = nn.relu(batch_norm(train, self.dtype, f'bn_{name}1')(x))
        x = conv(self.features, 3, dtype=self.dtype, name=f'conv_{name}2')(x)
        return batch_norm(train, self.dtype, f'bn_{name}2')(x)


class ShiftDownsample(nn.Module):
    """Halve the size by two pixel grids, one shifted by (1, 1): [B, H, W, C] -> [B, H/2, W/2, features]."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        fan_in = x.shape[-1]
        x = nn.relu(jnp.concatenate([x[:, ::2, ::2], x[:, 1::2, 1::2]], axis=-1))
        # Two groups: each grid makes half of the channels.
        x = conv(self.features, 1, groups=2, bias_init=uniform_bias(fan_in), dtype=self.dtype, name='conv')(x)
        return batch_norm(train, self.dtype, 'bn')(x)


def shake(first: Array, second: Array, key: Array | None) -> Array:
    """α·first + (1 - α)·second whose derivative is that of β·first + (1 - β)·second.

    Args:
      first, second: [B, H, W, C], the outputs of the branches.
      key: draws α and β of each example, independent and uniform in [0, 1]; None: both are ½.

    Returns:
      [B, H, W, C]. By `stop_gradient`, not a custom VJP: forward mode, which the meta-gradient needs, works.
    """
    difference = first - second
    if key is None:
        return second + difference / 2
    shape = (2, first.shape[0], *[1] * (first.ndim - 1))
    alpha, beta = jax.random.uniform(key, shape).astype(first.dtype)
    return second + beta * difference + jax.lax.stop_gradient((alpha - beta) * difference)
