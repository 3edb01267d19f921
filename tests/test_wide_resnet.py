"""WideResNet against its definition, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from metasemi_jax.errors import UserError
from metasemi_jax.models import create_model
from metasemi_jax.models.wide_resnet import WideBlock

TINY = {'width': 1, 'depth': 10}


def images(shape=(8, 8, 3), count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


# Flax's BatchNorm initialises its statistics in float32 and promotes from and to other dtypes.
@jax.numpy_dtype_promotion('standard')
def shapes(model, shape=(32, 32, 3)):
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))


def random_variables(model, shape=(8, 8, 3), dtype=np.float64):
    """Drawn by NumPy, biases, scales and statistics too: at their initial values many faults are hidden."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key in ('var', 'scale'):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(dtype)
        return rng.normal(0, 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))), leaf.shape).astype(dtype)

    return jax.tree.map_with_path(draw, shapes(model, shape))


class Reference:
    """The forward pass by windows and sums, in float64; gathers the running statistics in training."""

    def __init__(self, variables, *, train, shift=0.0):
        self.leaves = {
            kind: traverse_util.flatten_dict(variables[kind], sep='/') for kind in ('params', 'batch_stats')
        }
        self.train, self.shift, self.new_stats = train, shift, {}
        self.rng = np.random.default_rng(2)

    def conv(self, x, name, stride=1):
        kernel = self.leaves['params'][f'{name}/kernel']
        size = kernel.shape[0]
        pads = []
        for side in x.shape[1:3]:
            # TensorFlow's 'same': what ⌈side/stride⌉ windows need beyond the image, the odd pixel at the end.
            missing = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads.append((missing // 2, missing - missing // 2))
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        out = np.einsum('bhwcij,ijco->bhwo', windows[:, ::stride, ::stride], kernel, optimize=True)
        return out + self.shift * self.rng.normal(size=out.shape[-1])

    def activate(self, x, name):
        mean, var = (self.leaves['batch_stats'][f'{name}/{leaf}'] for leaf in ('mean', 'var'))
        if self.train:
            batch = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
            self.new_stats[f'{name}/mean'] = 0.999 * mean + 0.001 * batch[0]
            self.new_stats[f'{name}/var'] = 0.999 * var + 0.001 * batch[1]
            mean, var = batch
        scale, bias = (self.leaves['params'][f'{name}/{leaf}'] for leaf in ('scale', 'bias'))
        x = (x - mean) / np.sqrt(var + 1e-3) * scale + bias
        return np.where(x > 0, x, 0.1 * x)

    def block(self, x, name, stride, first):
        y = self.activate(x, f'{name}/bn1')
        shortcut = y if first else x
        if f'{name}/shortcut_conv/kernel' in self.leaves['params']:
            shortcut = self.conv(shortcut, f'{name}/shortcut_conv', stride)
        y = self.activate(self.conv(y, f'{name}/conv1', stride), f'{name}/bn2')
        return shortcut + self.conv(y, f'{name}/conv2')

    def __call__(self, x, blocks):
        x = self.conv(x, 'conv1')
        for stage in (1, 2, 3):
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                x = self.block(x, f'layer{stage}_{i}', stride, first=stage == 1 and i == 0)
        features = self.activate(x, 'bn').mean(axis=(1, 2))
        layer = self.leaves['params']
        return features @ layer['classifier/kernel'] + layer['classifier/bias'], features


def test_parameters_of_wide_resnet_28_2():
    shape = shapes(create_model('wide_resnet', 10))
    # Channels in -> out: four blocks a stage, a shortcut and `in` normalised channels in the first of each.
    stages = [(16, 32), (32, 64), (64, 128)]
    kernels = 9 * 3 * 16 + sum(i * o + 9 * i * o + 9 * 7 * o * o for i, o in stages)
    channels = sum(i + 7 * o for i, o in stages) + 128
    expected = kernels + 2 * channels + 128 * 10 + 10
    # The "1.5M parameters" of Oliver et al. (2018), MixMatch and FixMatch.
    assert expected == 1_467_610
    assert sum(leaf.size for leaf in jax.tree.leaves(shape['params'])) == expected
    assert sum(leaf.size for leaf in jax.tree.leaves(shape['batch_stats'])) == 2 * channels


@pytest.mark.parametrize(
    ('options', 'convolutions', 'channels'),
    [({}, 28, 128), ({'depth': 16, 'width': 8}, 16, 512), ({'depth': 10, 'width': 1}, 10, 64)],
)
def test_depth_counts_the_layers_and_width_the_channels(options, convolutions, channels):
    shape = shapes(create_model('wide_resnet', 10, **options))
    paths = traverse_util.flatten_dict(shape['params'], sep='/')
    layers = [path for path in paths if path.endswith('kernel') and 'shortcut' not in path]
    assert len(layers) == convolutions - 2  # the paper counts three shortcuts, and not the linear layer
    assert paths['classifier/kernel'].shape == (channels, 10)


@pytest.mark.parametrize('depth', [4, 9, 12, 27])
def test_other_depths_are_refused(depth):
    with pytest.raises(UserError, match=f'no depth {depth}; use 6·n \\+ 4, such as 10, 16, 22 or 28$'):
        create_model('wide_resnet', 10, depth=depth)


# Flax's BatchNorm computes wider than bfloat16, by implicit promotion.
@jax.numpy_dtype_promotion('standard')
@pytest.mark.parametrize('shape', [(8, 8, 1), (32, 32, 3), (9, 14, 3), (96, 96, 3)])
def test_shapes(shape):
    model = create_model('wide_resnet', 7, dtype=jnp.bfloat16)
    variables = shapes(model, shape)
    logits, features = jax.eval_shape(
        lambda v: model.apply(v, jnp.zeros((5, *shape)), train=False, return_features=True), variables
    )
    assert (logits.shape, features.shape) == ((5, 7), (5, 128))
    assert logits.dtype == features.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@jax.numpy_dtype_promotion('standard')
# Two blocks a stage have one without a shortcut convolution; odd sides are padded on both sides.
@pytest.mark.parametrize(
    ('options', 'shape'),
    [({'width': 1, 'depth': 10}, (8, 10, 1)), ({'width': 2, 'depth': 16}, (9, 11, 3))],
)
def test_computes_its_definition(options, shape, x64):
    model = create_model('wide_resnet', 5, dtype=jnp.float64, **options)
    variables, x = random_variables(model, shape), images(shape)
    blocks = (options['depth'] - 4) // 6
    evaluation = jax.jit(lambda v, x: model.apply(v, x, train=False, return_features=True))(variables, x)
    expected = Reference(variables, train=False)(x, blocks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), evaluation, expected)

    train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']))
    logits, updates = train(variables, x)
    reference = Reference(variables, train=True)
    np.testing.assert_allclose(logits, reference(x, blocks)[0], rtol=1e-8, atol=1e-8)
    found = traverse_util.flatten_dict(updates['batch_stats'], sep='/')
    assert found.keys() == reference.new_stats.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, reference.new_stats[name], rtol=1e-10, atol=1e-12)


def test_biases_of_the_convolutions_would_change_nothing_in_training():
    """Why this network has none, and google-research's, which has them at zero, is the same one."""
    model = create_model('wide_resnet', 5, **TINY)
    variables, x = random_variables(model), images()
    logits, shifted = (Reference(variables, train=True, shift=shift)(x, 1)[0] for shift in (0.0, 1.0))
    np.testing.assert_allclose(shifted, logits, rtol=1e-10, atol=1e-10)


def test_initialisation():
    model = create_model('wide_resnet', 500, depth=10)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), train=False))(jax.random.key(0))
    for path, leaf in traverse_util.flatten_dict(variables['params'], sep='/').items():
        if not path.endswith('kernel'):
            assert (leaf == (1 if path.endswith('scale') else 0)).all(), path
            continue
        values, height = np.asarray(leaf).ravel(), leaf.shape[0]
        std = np.sqrt(2 / (128 + 500) if path == 'classifier/kernel' else 2 / (height**2 * leaf.shape[-1]))
        np.testing.assert_allclose(values.std(), std, rtol=5 / np.sqrt(2 * values.size), err_msg=path)
        assert abs(values.mean()) < 5 * std / np.sqrt(values.size)
        if path == 'classifier/kernel':
            # A normal draw cut off at ±2 has 0.8796 of its deviation.
            assert 1.99 < np.abs(values).max() / (std / 0.87962566) <= 2
        else:
            # A normal variable exceeds two deviations in 4.55% of the draws.
            beyond = np.mean(np.abs(values) > 2 * std)
            assert abs(beyond - 0.0455) < 5 * np.sqrt(0.0455 / values.size)


def test_dropout_needs_training_and_a_key():
    model = create_model('wide_resnet', 5, dropout_rate=0.5, **TINY)
    still = create_model('wide_resnet', 5, **TINY)
    variables, x = random_variables(model, dtype=np.float32), images().astype(np.float32)

    def logits(model, train, key=None):
        rngs = None if key is None else {'dropout': jax.random.key(key)}
        return model.apply(variables, x, train=train, mutable=['batch_stats'], rngs=rngs)[0]

    np.testing.assert_array_equal(logits(model, True, 0), logits(model, True, 0))
    dropped = np.asarray(logits(model, True, 0))
    assert np.abs(dropped - logits(model, True, 1)).max() > 1e-3
    np.testing.assert_array_equal(logits(model, True), logits(still, True, 0))
    np.testing.assert_array_equal(logits(model, False, 0), logits(still, False))


def test_dropout_is_of_single_values_before_the_last_convolution():
    # Kernels that copy their centre: the block adds its dropped activations to its input.
    centre = np.zeros((3, 3, 4, 4), np.float32)
    centre[1, 1] = np.eye(4)
    norm = {'scale': np.ones(4, np.float32), 'bias': np.zeros(4, np.float32)}
    params = {'bn1': norm, 'conv1': {'kernel': centre}, 'bn2': norm, 'conv2': {'kernel': centre}}
    stats = {'mean': np.zeros(4, np.float32), 'var': np.ones(4, np.float32)}
    variables = {'params': params, 'batch_stats': {'bn1': stats, 'bn2': stats}}
    x = images((5, 5, 4), 20).astype(np.float32)

    def added(**rngs):
        out, _ = WideBlock(4, dropout_rate=0.25).apply(
            variables, x, train=True, mutable=['batch_stats'], rngs=rngs
        )
        return np.asarray(out) - x

    ratio = added(dropout=jax.random.key(0)) / added()
    kept = ratio > 0.5
    np.testing.assert_allclose(ratio, kept / 0.75, atol=1e-3)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    for axes in ((1, 2, 3), (1, 2), (3,)):
        assert kept.any(axes).mean() > 0.99
        assert kept.all(axes).mean() < 0.5
