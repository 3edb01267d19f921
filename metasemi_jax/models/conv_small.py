"""ConvSmall, ConvLarge's little sister for images of 8×8 to 32×32 on a laptop."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metasemi_jax.models import layers

MIN_SIZE = 4


class ConvSmall(nn.Module):
    """width, width, pool, 2·width, 2·width, pool, 4·width, global mean, linear.

    Images [B, H, W, C] of at least 4 × 4 -> logits [B, K].
    """

    num_classes: int
    width: int = 16
    dropout_rate: float = 0.5
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        layers.check_image_size(x, MIN_SIZE, model='conv_small', advice='use larger ones')
        w = self.width
        x = x.astype(self.dtype)
        x = layers.ConvBlock(w, dtype=self.dtype, name='block1')(x, train=train)
        x = layers.ConvBlock(w, dtype=self.dtype, name='block2')(x, train=train)
        x = layers.PoolDropout(self.dropout_rate, name='pool1')(x, train=train)
        x = layers.ConvBlock(2 * w, dtype=self.dtype, name='block3')(x, train=train)
        x = layers.ConvBlock(2 * w, dtype=self.dtype, name='block4')(x, train=train)
        x = layers.PoolDropout(self.dropout_rate, name='pool2')(x, train=train)
        x = layers.ConvBlock(4 * w, dtype=self.dtype, name='block5')(x, train=train)
        return layers.classified(layers.global_mean(x), self, return_features)
