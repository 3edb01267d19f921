"""ResNet-18 and ResNet-50 (He et al., 2016), as torchvision builds them: version 1.5, stride in the 3×3."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metasemi_jax.models.layers import Dtype, batch_norm, classified, conv, global_mean
from metasemi_jax.models.max_pool import max_pool
from metasemi_jax.models.trained_parts import trained_parts


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: [B, H, W, C] -> [B, H/stride, W/stride, width]."""

    width: int
    stride: int
    dtype: Dtype = jnp.float32
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv1')(x)
        y = nn.relu(batch_norm(train, self.dtype, 'bn1')(y))
        y = conv(self.width, 3, dtype=self.dtype, name='conv2')(y)
        y = batch_norm(train, self.dtype, 'bn2')(y)
        return nn.relu(y + _shortcut(x, y.shape, self.stride, train, self.dtype))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut: [B, H, W, C] -> [B, H/stride, W/stride, 4·width]."""

    width: int
    stride: int
    dtype: Dtype = jnp.float32
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = conv(self.width, 1, dtype=self.dtype, name='conv1')(x)
        y = nn.relu(batch_norm(train, self.dtype, 'bn1')(y))
        y = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv2')(y)
        y = nn.relu(batch_norm(train, self.dtype, 'bn2')(y))
        y = conv(self.expansion * self.width, 1, dtype=self.dtype, name='conv3')(y)
        y = batch_norm(train, self.dtype, 'bn3')(y)
        return nn.relu(y + _shortcut(x, y.shape, self.stride, train, self.dtype))


class ResNet(nn.Module):
    """What the two depths share: images [B, H, W, C] -> logits [B, K]; `width` is that of the first stage."""

    num_classes: int
    width: int = 64
    trained_blocks: int | None = None  # the last blocks, the others are frozen; None: everything is trained
    dtype: Dtype = jnp.float32
    # Class attributes, no fields: the networks below set them, users do not.
    block = BasicBlock
    stage_sizes = ()

    def parts(self) -> list[tuple[str, ...]]:
        """Names of the layers before the blocks, of each block, and after the blocks."""
        blocks = [
            (f'layer{stage}_{i}',)
            for stage, size in enumerate(self.stage_sizes, start=1)
            for i in range(size)
        ]
        return [('conv1', 'bn1'), *blocks, ()]

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        learns = iter([train and trained for trained in trained_parts(self)])
        x = conv(self.width, 7, 2, dtype=self.dtype, name='conv1')(x.astype(self.dtype))
        x = nn.relu(batch_norm(next(learns), self.dtype, 'bn1')(x))
        x = max_pool(x, 3, stride=2, padding=1)
        for stage, size in enumerate(self.stage_sizes):
            for i in range(size):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f'layer{stage + 1}_{i}'
                x = self.block(self.width * 2**stage, stride, self.dtype, name=name)(x, train=next(learns))
        return classified(global_mean(x), self, return_features)


class ResNet18(ResNet):
    """Two basic blocks a stage."""

    block = BasicBlock
    stage_sizes = (2, 2, 2, 2)


class ResNet50(ResNet):
    """Three, four, six and three bottleneck blocks."""

    block = Bottleneck
    stage_sizes = (3, 4, 6, 3)


def _shortcut(x: Array, shape: tuple[int, ...], stride: int, train: bool, dtype: Dtype) -> Array:
    if x.shape == shape:
        return x
    x = conv(shape[-1], 1, stride, dtype=dtype, name='downsample_conv')(x)
    return batch_norm(train, dtype, 'downsample_bn')(x)
