"""EfficientNet-Lite0 (Tan and Le, 2019; Liu, 2020): EfficientNet-B0 without attention, with ReLU6."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.models import layers
from metasemi_jax.models.trained_parts import trained_parts

EPSILON = 1e-3  # of BatchNorm, as TensorFlow's
STEM_WIDTH, HEAD_WIDTH = 32, 1280
# A stage: blocks, side of the depthwise kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, padding 'SAME': [B, H, W, C] -> [B, H/stride, W/stride, C]."""

    kernel_size: int
    stride: int
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, stride, wide = self.kernel_size, self.stride, layers.at_least_float32(self.dtype)
        kernel = self.param('kernel', layers.normal_fan_out, (size, size, 1, x.shape[-1]), wide)
        kernel = kernel.astype(self.dtype).astype(wide)
        height, width = (-(-side // stride) for side in x.shape[1:3])
        padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), 'SAME')
        x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        # A sum of shifted images: XLA's grouped convolution is 10 to 100 times as slow on a CPU, with its
        # gradient.
        y = jnp.zeros((), wide)
        for i in range(size):
            for j in range(size):
                rows, columns = slice(i, i + (height - 1) * stride + 1, stride), j + (width - 1) * stride + 1
                y += x[:, rows, j:columns:stride].astype(wide) * kernel[i, j, 0]
        return y.astype(self.dtype)


class InvertedBottleneck(nn.Module):
    """1×1 expansion, depthwise, 1×1 projection: [B, H, W, C] -> [B, H/stride, W/stride, width]."""

    width: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        inner, y = x.shape[-1] * self.expansion, x
        if self.expansion > 1:
            y = layers.conv(inner, 1, dtype=self.dtype, name='expand_conv')(y)
            y = nn.relu6(layers.batch_norm(train, self.dtype, 'bn0', epsilon=EPSILON)(y))
        y = DepthwiseConv(self.kernel_size, self.stride, self.dtype, name='depthwise_conv')(y)
        y = nn.relu6(layers.batch_norm(train, self.dtype, 'bn1', epsilon=EPSILON)(y))
        y = layers.conv(self.width, 1, dtype=self.dtype, name='project_conv')(y)
        y = layers.batch_norm(train, self.dtype, 'bn2', epsilon=EPSILON)(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """16 inverted bottlenecks: images [B, H, W, C] of any size -> logits [B, K].

    Padding is TensorFlow's 'SAME', one pixel more on the far side at a stride of 2. The running statistics
    keep 0.9, as those of this package's other networks, not 0.99. Dropout and stochastic depth are left out:
    evaluation mode has none.
    """

    num_classes: int
    width: int = STEM_WIDTH  # of the stem; those of the stages and of the head are in proportion
    trained_blocks: int | None = None  # the last blocks, the others are frozen; None: everything is trained
    dtype: layers.Dtype = jnp.float32

    def parts(self) -> list[tuple[str, ...]]:
        """Names of the layers before the blocks, of each block, and after the blocks."""
        blocks = sum(stage[0] for stage in STAGES)
        return [
            ('conv_stem', 'bn_stem'),
            *((f'block_{i}',) for i in range(blocks)),
            ('conv_head', 'bn_head'),
        ]

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        learns = iter([train and trained for trained in trained_parts(self)])

        def channels(count: int) -> int:
            return max(1, count * self.width // STEM_WIDTH)

        stem = layers.conv(self.width, 3, 2, padding='SAME', dtype=self.dtype, name='conv_stem')
        x = stem(x.astype(self.dtype))
        x = nn.relu6(layers.batch_norm(next(learns), self.dtype, 'bn_stem', epsilon=EPSILON)(x))
        blocks = [
            (width, kernel_size, stride if i == 0 else 1, expansion)
            for size, kernel_size, stride, expansion, width in STAGES
            for i in range(size)
        ]
        for i, (width, *shape) in enumerate(blocks):
            block = InvertedBottleneck(channels(width), *shape, self.dtype, name=f'block_{i}')
            x = block(x, train=next(learns))
        x = layers.conv(channels(HEAD_WIDTH), 1, dtype=self.dtype, name='conv_head')(x)
        x = nn.relu6(layers.batch_norm(next(learns), self.dtype, 'bn_head', epsilon=EPSILON)(x))
        return layers.classified(layers.global_mean(x), self, return_features)
