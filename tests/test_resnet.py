"""ResNet-18 and -50 against torchvision's computation, written out in NumPy by its names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.models import create_model
from metasemi_jax.torch_import import convert_state_dict, to_state_dict
from metasemi_jax.torch_import.state_dict import parameter_keys

STAGES = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}
WIDTH = 4


def conv(x, kernel, stride, padding):
    """[B, C, H, W], OIHW; zeros on both sides."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
    return np.einsum('bchwij,ocij->bohw', windows[:, :, ::stride, ::stride], kernel, optimize=True)


def batch_norm(x, state, name):
    def vector(leaf):
        return state[f'{name}.{leaf}'][:, None, None]

    scale = vector('weight') / np.sqrt(vector('running_var') + 1e-5)
    return (x - vector('running_mean')) * scale + vector('bias')


def relu(x):
    return np.maximum(x, 0)


def block(x, state, name, stride):
    def layer(x, i, stride=1):
        kernel = state[f'{name}.conv{i}.weight']
        return batch_norm(conv(x, kernel, stride, kernel.shape[2] // 2), state, f'{name}.bn{i}')

    if f'{name}.conv3.weight' in state:
        y = layer(relu(layer(relu(layer(x, 1)), 2, stride)), 3)
    else:
        y = layer(relu(layer(x, 1, stride)), 2)
    if f'{name}.downsample.0.weight' in state:
        x = conv(x, state[f'{name}.downsample.0.weight'], stride, 0)
        x = batch_norm(x, state, f'{name}.downsample.1')
    return relu(x + y)


def reference_logits(x, state, stages):
    x = relu(batch_norm(conv(x, state['conv1.weight'], 2, 3), state, 'bn1'))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(-2, -1))
    for stage, size in enumerate(stages, start=1):
        for i in range(size):
            x = block(x, state, f'layer{stage}.{i}', 2 if stage > 1 and i == 0 else 1)
    return x.mean(axis=(2, 3)) @ state['fc.weight'].T + state['fc.bias']


def random_state_dict(net, rng):
    model = create_model(net, 5, width=WIDTH)
    shapes = jax.eval_shape(
        lambda k: model.init(k, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    zeros = to_state_dict(net, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes))
    state = {}
    for key, array in zeros.items():
        scale = np.sqrt(2 / np.prod(array.shape[1:])) if array.ndim > 1 else 0.2
        state[key] = rng.normal(0, scale, array.shape)
        if key.endswith('running_var') or (array.ndim == 1 and key.endswith('weight')):
            state[key] = rng.uniform(0.5, 1.5, array.shape)
    return model, state


@pytest.mark.parametrize('net', STAGES)
def test_computes_what_torchvision_does(net):
    rng = np.random.default_rng(0)
    model, state = random_state_dict(net, rng)
    images = rng.normal(size=(2, 3, 36, 44))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), convert_state_dict(net, state))
    nhwc = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    logits, features = jax.jit(lambda v, x: model.apply(v, x, train=False, return_features=True))(
        variables, nhwc
    )
    expected = reference_logits(images, state, STAGES[net])
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert features.shape == (2, 8 * WIDTH * (4 if net == 'resnet50' else 1))


@pytest.mark.parametrize(
    ('net', 'num_parameters', 'num_tensors'), [('resnet18', 11_689_512, 62), ('resnet50', 25_557_032, 161)]
)
def test_has_torchvisions_parameters_in_torchvisions_order(net, num_parameters, num_tensors):
    model = create_model(net, 1000)
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == num_parameters
    tensors = to_state_dict(net, jax.tree.map(lambda leaf: np.empty(leaf.shape, np.int8), shapes))
    keys = parameter_keys(tensors)
    assert len(keys) == num_tensors
    assert keys[:4] == ['conv1.weight', 'bn1.weight', 'bn1.bias', 'layer1.0.conv1.weight']
    assert keys[-2:] == ['fc.weight', 'fc.bias']
    first_of_stage = [key for key in keys if key.startswith('layer2.0.')]
    assert first_of_stage[-3:] == [
        'layer2.0.downsample.0.weight',
        'layer2.0.downsample.1.weight',
        'layer2.0.downsample.1.bias',
    ]
    assert tensors['layer1.0.conv2.weight'].shape == (64, 64, 3, 3)
