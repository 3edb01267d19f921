"""WideResNet-28-2 (Zagoruyko and Komodakis, 2016) as the benchmarks of semi-supervised learning use it.

Two programs of these benchmarks define the network differently. This module computes what google-research's
`fixmatch/libml/models.py` computes; microsoft/Semi-supervised-learning (USB), `nets/wrn/wrn.py`, differs in

- the first block of stages 2 and 3, which convolves its raw input and leaves its first BatchNorm unused;
  Google's convolves the activated one, as every other block does;
- the epsilon of all BatchNorms but the last, 1e-5; Google's is 1e-3 throughout;
- 3×3 convolutions of stride 2, which pad both sides; Google's pad even sizes on the far side only;
- the linear layer's Glorot normal draw, which Google's truncates at two deviations;
- convolution biases: USB's first convolution has one, all of Google's have one, zero at first;
- dropout, 0 in every recipe: between the convolutions of a block, as in the paper and here; Google's is
  before the linear layer.

In both, the first block of stage 1 alone activates before the residual: its shortcut takes the activated
input, the other shortcuts the raw one. Both draw convolution kernels from a normal distribution of variance
2/(k·k·out), begin BatchNorms as the identity and the linear layer's bias at 0, and keep 0.999 of the running
statistics. Convolution biases are left out here: each is a constant that the BatchNorms after it subtract,
so in training mode its gradient is 0, and at zero it stays.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metasemi_jax.errors import UserError
from metasemi_jax.models.layers import Dtype, batch_norm, classified, conv, global_mean


class WideResNet(nn.Module):
    """3×3 convolution, three stages of (depth-4)/6 blocks, BatchNorm, leaky ReLU, global mean, linear.

    Images [B, H, W, C] of any size from 8 × 8 -> logits [B, K]. The stages have 16·width, 32·width and
    64·width channels; the second and the third halve the size, rounded up.
    """

    num_classes: int
    width: int = 2
    depth: int = 28
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32

    def __post_init__(self):
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UserError(
                f"model 'wide_resnet' has no depth {self.depth}; use 6·n + 4, such as 10, 16, 22 or 28"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        x = conv(16, 3, dtype=self.dtype, name='conv1')(x.astype(self.dtype))
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                x = WideBlock(
                    16 * self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    activated_shortcut=stage == i == 0,
                    dropout_rate=self.dropout_rate,
                    dtype=self.dtype,
                    name=f'layer{stage + 1}_{i}',
                )(x, train=train)
        features = global_mean(_activate(x, train, self.dtype, 'bn'))
        inits = {'kernel_init': nn.initializers.glorot_normal(), 'bias_init': nn.initializers.zeros}
        return classified(features, self, return_features, **inits)


class WideBlock(nn.Module):
    """Shortcut + BN-leaky ReLU-conv-BN-leaky ReLU-dropout-conv: [B, H, W, C] -> [B, H', W', features]."""

    features: int
    stride: int = 1
    activated_shortcut: bool = False  # whether the shortcut begins after the first leaky ReLU
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = _activate(x, train, self.dtype, 'bn1')
        shortcut = y if self.activated_shortcut else x
        if shortcut.shape[-1] != self.features:
            shortcut = self._conv(1, self.stride, 'shortcut_conv')(shortcut)
        y = self._conv(3, self.stride, 'conv1')(y)
        y = _activate(y, train, self.dtype, 'bn2')
        off = not (train and self.has_rng('dropout'))
        y = nn.Dropout(self.dropout_rate, deterministic=off)(y)
        return shortcut + self._conv(3, 1, 'conv2')(y)

    def _conv(self, kernel_size: int, stride: int, name: str) -> nn.Conv:
        return conv(self.features, kernel_size, stride, padding='SAME', dtype=self.dtype, name=name)


def _activate(x: Array, train: bool, dtype: Dtype, name: str) -> Array:
    return nn.leaky_relu(batch_norm(train, dtype, name, momentum=0.999, epsilon=1e-3)(x), 0.1)
