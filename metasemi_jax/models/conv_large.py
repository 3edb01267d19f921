"""ConvLarge, the 13-layer net of the paper's SVHN and CIFAR experiments ("CNN-13")."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metasemi_jax.models import layers

MIN_SIZE = 12


class ConvLarge(nn.Module):
    """Nine convolutions, global mean, linear: images [B, H, W, C] of at least 12 × 12 -> logits [B, K].

    128, 128, 128, pool, 256, 256, 256, pool, 512 (valid), 1×1 256, 1×1 128 at the recipe's `width` of 128.
    """

    num_classes: int
    width: int = 128
    dropout_rate: float = 0.5
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        layers.check_image_size(x, MIN_SIZE, model='conv_large', advice="use model 'conv_small'")
        w = self.width
        x = x.astype(self.dtype)
        for i in range(1, 4):
            x = layers.ConvBlock(w, dtype=self.dtype, name=f'block{i}')(x, train=train)
        x = layers.PoolDropout(self.dropout_rate, name='pool1')(x, train=train)
        for i in range(4, 7):
            x = layers.ConvBlock(2 * w, dtype=self.dtype, name=f'block{i}')(x, train=train)
        x = layers.PoolDropout(self.dropout_rate, name='pool2')(x, train=train)
        x = layers.ConvBlock(4 * w, 3, 'VALID', self.dtype, name='block7')(x, train=train)
        x = layers.ConvBlock(2 * w, 1, dtype=self.dtype, name='block8')(x, train=train)
        x = layers.ConvBlock(w, 1, dtype=self.dtype, name='block9')(x, train=train)
        return layers.classified(layers.global_mean(x), self, return_features)
