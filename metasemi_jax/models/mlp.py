"""A multilayer perceptron, for features that are no images."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from metasemi_jax.models import layers


class MLP(nn.Module):
    """`depth` layers of linear without bias, BatchNorm, LeakyReLU 0.1 and dropout; then linear.

    Standardised features [B, D], or images [B, H, W, C], which are flattened -> logits [B, K].
    """

    num_classes: int
    width: int = 128
    depth: int = 2
    dropout_rate: float = 0.5
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        # Not -1: a batch may be empty. Not len(x): in an export it is a symbol.
        x = x.reshape(x.shape[0], math.prod(x.shape[1:])).astype(self.dtype)
        off = not (train and self.has_rng('dropout'))
        for i in range(1, self.depth + 1):
            x = layers.linear(self.width, self.dtype, f'linear{i}', use_bias=False)(x)
            x = nn.leaky_relu(layers.batch_norm(train, self.dtype, f'bn{i}')(x), 0.1)
            x = nn.Dropout(self.dropout_rate, deterministic=off)(x)
        features = x.astype(layers.at_least_float32(self.dtype))
        return layers.classified(features, self, return_features)
