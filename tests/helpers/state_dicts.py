"""Weights as PyTorch names them."""

import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax.models import create_model
from metasemi_jax.torch_import import to_state_dict

WIDTHS = {'conv_large': 4, 'shake_shake26': 4, 'resnet18': 8, 'resnet50': 8}


def random_state_dict(net, num_classes=3, width=None, channels=3, dtype=np.float64):
    model = create_model(net, num_classes, width=width or WIDTHS[net])
    image = jnp.zeros((1, 32, 32, channels))
    shapes = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    rng = np.random.default_rng(0)
    return to_state_dict(net, jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes))
