"""The initialisations of the recipe, by their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from metasemi_jax.models import create_model
from metasemi_jax.models.resnet import BasicBlock, Bottleneck
from metasemi_jax.models.shake_shake import ShakeBlock, ShiftDownsample


def initial(module, shape):
    """{'conv/kernel': array, ...} of one module; whole residual nets would compile for minutes."""
    images = jnp.zeros((1, *shape))
    variables = jax.jit(lambda key: module.init(key, images, train=False))(jax.random.key(0))
    leaves = {}
    for tree in variables.values():
        leaves |= traverse_util.flatten_dict(tree, sep='/')
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@pytest.fixture(scope='module')
def conv_large():
    return initial(create_model('conv_large', 200, width=32), (12, 12, 3))


RESIDUAL_BLOCKS = {
    'first shake-shake block': (ShakeBlock(64), (4, 4, 16)),
    'halving shake-shake block': (ShakeBlock(64, stride=2), (4, 4, 32)),
    'basic block': (BasicBlock(32, 2), (4, 4, 16)),
    'bottleneck block': (Bottleneck(32, 2), (4, 4, 64)),
}


@pytest.fixture(scope='module', params=RESIDUAL_BLOCKS)
def block(request):
    return initial(*RESIDUAL_BLOCKS[request.param])


def assert_uniform(values, bound):
    values = values.ravel()
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.95 * bound
    assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
    np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=2 / np.sqrt(values.size))


def assert_normal(values, std):
    values = values.ravel()
    np.testing.assert_allclose(values.std(), std, rtol=5 / np.sqrt(2 * values.size))
    assert abs(values.mean()) < 5 * std / np.sqrt(values.size)
    # Neither truncated at two deviations nor uniform: a normal variable exceeds two in 4.55% of the draws.
    beyond = np.mean(np.abs(values) > 2 * std)
    assert abs(beyond - 0.0455) < 5 * np.sqrt(0.0455 / values.size)


@pytest.mark.parametrize('i', range(1, 10))
def test_conv_large_kernels_are_uniform(conv_large, i):
    kernel = conv_large[f'block{i}/conv/kernel']
    assert_uniform(kernel, 1 / np.sqrt(np.prod(kernel.shape[:3])))


def test_classifier_is_uniform(conv_large):
    weight, bias = conv_large['classifier/kernel'], conv_large['classifier/bias']
    assert weight.shape == (32, 200)
    assert_uniform(weight, 1 / np.sqrt(32))
    assert_uniform(bias, 1 / np.sqrt(32))


def test_residual_kernels_are_normal_by_their_fan_out(block):
    kernels = [leaf for path, leaf in block.items() if path.endswith('kernel')]
    assert len(kernels) >= 3
    for kernel in kernels:
        height, width, _, out = kernel.shape
        assert_normal(kernel, np.sqrt(2 / (height * width * out)))


def test_shake_shake_shortcut_bias_is_uniform():
    leaves = initial(ShiftDownsample(256), (4, 4, 32))
    # Two groups: each output sees 32 of the 64 channels.
    assert leaves['conv/kernel'].shape == (1, 1, 32, 256)
    assert_uniform(leaves['conv/bias'], 1 / np.sqrt(32))


def test_batch_norms_begin_as_the_identity(conv_large, block):
    begin = {'mean': 0, 'var': 1, 'scale': 1}
    for leaves in (conv_large, block):
        for path, leaf in leaves.items():
            name, kind = path.rsplit('/', 1)
            if kind in begin:
                assert (leaf == begin[kind]).all()
                assert (leaves[f'{name}/bias'] == 0).all()
