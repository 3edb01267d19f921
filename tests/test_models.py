import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.models.layers import ConvBlock, PoolDropout
from metasemi_jax.models.max_pool import max_pool

# conv_large at a width that a test can pay for; its layers are the same.
SMALL = {'conv_large': {'width': 4}, 'conv_small': {'width': 4}}
SHAPE = (12, 12, 3)
each_model = pytest.mark.parametrize('name', SMALL)


def images(count=4, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


class Net:
    def __init__(self, name, **options):
        self.model = create_model(name, 10, **options)
        self.variables = init_variables(self.model, jax.random.key(0), SHAPE)
        self.evaluate = jax.jit(
            lambda v, x: self.model.apply(v, x, train=False, return_features=True, mutable=['batch_stats'])
        )
        self.train = jax.jit(
            lambda v, x: self.model.apply(v, x, train=True, return_features=True, mutable=['batch_stats'])
        )


@pytest.fixture(scope='module')
def nets():
    return {name: Net(name, **options) for name, options in SMALL.items()}


def shapes(model, image_shape):
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images(1, image_shape))


def number_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_conv_large():
    model = create_model('conv_large', 10)
    variables = shapes(model, (32, 32, 3))
    convolutions = (
        9 * (3 * 128 + 128 * 128 + 128 * 128)
        + 9 * (128 * 256 + 256 * 256 + 256 * 256)
        + 9 * 256 * 512
        + 512 * 256
        + 256 * 128
    )
    channels = 3 * 128 + 3 * 256 + 512 + 256 + 128
    assert number_of(variables['params']) == convolutions + 2 * channels + 128 * 10 + 10 == 3_121_802
    assert number_of(variables['batch_stats']) == 2 * channels == 4096


def test_parameters_of_conv_small():
    model = create_model('conv_small', 10)
    variables = shapes(model, (8, 8, 1))
    convolutions = 9 * (1 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64)
    assert number_of(variables['params']) == convolutions + 2 * (16 + 16 + 32 + 32 + 64) + 64 * 10 + 10


@pytest.mark.parametrize(
    ('name', 'shape', 'features'),
    [
        ('conv_small', (8, 8, 1), 64),
        ('conv_small', (4, 4, 1), 64),
        ('conv_small', (32, 20, 3), 64),
        ('conv_large', (32, 32, 3), 128),
        ('conv_large', (12, 15, 3), 128),
    ],
)
def test_shapes_at_full_width(name, shape, features):
    model = create_model(name, 7)

    def call(variables, x):
        return model.apply(variables, x, train=False, return_features=True)

    logits, found = jax.eval_shape(call, shapes(model, shape), images(5, shape))
    assert logits.shape == (5, 7)
    assert found.shape == (5, features)


@pytest.mark.parametrize(
    ('name', 'shape', 'message'),
    [
        ('conv_large', (8, 8, 1), r"at least 12×12, not 8×8; use model 'conv_small'"),
        ('conv_small', (8, 3, 1), r'at least 4×4, not 8×3; use larger ones'),
    ],
)
def test_images_that_would_shrink_to_nothing_are_refused(name, shape, message):
    with pytest.raises(UserError, match=message):
        init_variables(create_model(name, 10), jax.random.key(0), shape)


def test_unknown_names():
    with pytest.raises(UserError, match=r"'conv_larg' is unknown; choose one of .*conv_large"):
        create_model('conv_larg', 10)
    with pytest.raises(
        UserError, match=r"no option 'depth'; set it to None; its options: dropout_rate, width$"
    ):
        create_model('conv_small', 10, depth=3)


@each_model
def test_initial_weights_are_uniform_within_one_over_root_fan_in(name):
    params = init_variables(create_model(name, 10, width=32), jax.random.key(0), SHAPE)['params']
    kernels = [params[block]['conv']['kernel'] for block in params if block != 'classifier']
    fan_ins = [int(np.prod(kernel.shape[:3])) for kernel in kernels]
    kernels.append(params['classifier']['kernel'])
    fan_ins.append(params['classifier']['kernel'].shape[0])
    for kernel, fan_in in zip(kernels, fan_ins, strict=True):
        # Scaled to -1..1: the quantiles of a uniform draw, within 4 standard errors at most.
        scaled = np.sort(np.asarray(kernel).ravel()) * np.sqrt(fan_in)
        assert np.abs(scaled).max() <= 1 + 1e-6
        assert np.abs(scaled - np.linspace(-1, 1, scaled.size)).max() < 4 / np.sqrt(scaled.size)


def test_initial_biases_are_uniform_within_one_over_root_fan_in():
    # Of 2,000 classes, for a sample that shows a distribution.
    model = create_model('conv_small', 2000, width=4)
    biases = init_variables(model, jax.random.key(0), (8, 8, 1))['params']['classifier']['bias']
    scaled = np.sort(np.asarray(biases)) * np.sqrt(16)
    assert np.abs(scaled).max() <= 1
    assert np.abs(scaled - np.linspace(-1, 1, 2000)).max() < 4 / np.sqrt(2000)


@each_model
def test_initial_batch_norm(nets, name):
    variables = nets[name].variables
    for block, statistics in variables['batch_stats'].items():
        norm = variables['params'][block]['bn']
        np.testing.assert_array_equal(norm['scale'], 1)
        np.testing.assert_array_equal(norm['bias'], 0)
        np.testing.assert_array_equal(statistics['bn']['mean'], 0)
        np.testing.assert_array_equal(statistics['bn']['var'], 1)


@each_model
def test_logits_are_a_linear_map_of_the_features(nets, name):
    net = nets[name]
    (logits, features), _ = net.evaluate(net.variables, images())
    last = net.variables['params']['classifier']
    by_hand = np.asarray(features, np.float64) @ np.asarray(last['kernel'], np.float64) + last['bias']
    np.testing.assert_allclose(logits, by_hand, rtol=1e-5, atol=1e-6)
    plain = jax.jit(lambda v, x: net.model.apply(v, x, train=False))(net.variables, images())
    np.testing.assert_allclose(plain, logits, rtol=1e-6, atol=1e-6)


@each_model
def test_evaluation_changes_no_statistic_and_sees_each_image_alone(nets, name):
    net = nets[name]
    (together, _), updates = net.evaluate(net.variables, images())
    jax.tree.map(np.testing.assert_array_equal, updates['batch_stats'], net.variables['batch_stats'])
    others = np.concatenate([images()[:1], images(3, seed=1)])
    (with_others, _), _ = net.evaluate(net.variables, others)
    np.testing.assert_allclose(with_others[0], together[0], rtol=1e-5, atol=1e-6)


@each_model
def test_training_moves_the_statistics_by_a_tenth(nets, name):
    net = nets[name]
    _, updates = net.train(net.variables, images())
    # The first block's batch statistics by NumPy: 3×3 convolution of the zero-padded images.
    kernel = np.asarray(net.variables['params']['block1']['conv']['kernel'], np.float64)
    padded = np.pad(images().astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.einsum('bhwcij,ijco->bhwo', windows, kernel)
    mean, var = convolved.mean(axis=(0, 1, 2)), convolved.var(axis=(0, 1, 2))
    first = updates['batch_stats']['block1']['bn']
    np.testing.assert_allclose(first['mean'], 0.1 * mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(first['var'], 0.9 + 0.1 * var, rtol=1e-5)
    # Two passes with the same weights: 0.9 · (0.1 m) + 0.1 m = 0.19 m, in every block.
    _, again = net.train(net.variables | updates, images())
    jax.tree.map(
        lambda old, one, two: np.testing.assert_allclose(two - old, 1.9 * (one - old), rtol=1e-3, atol=1e-5),
        *(v['batch_stats'] for v in (net.variables, updates, again)),
    )


def test_first_block_by_hand():
    # The kernel copies its centre; running mean ½, variance 4: (x - ½) / 2, negative values times 0.1.
    x = np.array([[2.5, -1.5], [0.5, 4.5]], np.float32)[None, :, :, None]
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    variables = {
        'params': {'conv': {'kernel': kernel}, 'bn': {'scale': np.ones(1, 'f'), 'bias': np.zeros(1, 'f')}},
        'batch_stats': {'bn': {'mean': np.full(1, 0.5, 'f'), 'var': np.full(1, 4.0, 'f')}},
    }
    out = ConvBlock(1).apply(variables, x, train=False)
    np.testing.assert_allclose(out[0, :, :, 0], [[1, -0.1], [0, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('size', 'stride', 'padding'), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)])
@pytest.mark.parametrize('shape', [(2, 6, 8, 3), (2, 7, 5, 3)])
def test_max_pool_is_that_of_flax(size, stride, padding, shape):
    """Values, gradients and tangents; of few different numbers, so that most windows hold equal ones."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 1, shape), jnp.float32)
    tangent = jnp.asarray(rng.normal(size=shape), jnp.float32)

    def ours(x):
        return max_pool(x, size, stride=stride, padding=padding)

    def theirs(x):
        pads = ((padding, padding), (padding, padding))
        return nn.max_pool(x, (size, size), strides=(stride, stride), padding=pads)

    out, gradient = jax.vjp(theirs, x)
    weights = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    np.testing.assert_array_equal(ours(x), out)
    np.testing.assert_allclose(jax.vjp(ours, x)[1](weights)[0], gradient(weights)[0], atol=1e-6)
    np.testing.assert_allclose(
        jax.jvp(ours, (x,), (tangent,))[1], jax.jvp(theirs, (x,), (tangent,))[1], atol=1e-6
    )


@pytest.mark.parametrize(('size', 'padding'), [(2, 0), (3, 1)])
def test_the_gradient_of_max_pool_leaves_no_holes_to_fill(size, padding):
    # An H100 fills them at a twentieth of the speed of its memory.
    def total(x):
        return jnp.sum(max_pool(x, size, stride=2, padding=padding) ** 2)

    text = jax.jit(jax.grad(total)).lower(jnp.zeros((2, 8, 8, 3))).as_text()
    interiors = re.findall(r'stablehlo\.pad .*interior = \[([\d, ]+)\]', text)
    assert not set(''.join(interiors)) - set('0, ')


def test_max_pool_hides_no_nan():
    x = np.zeros((1, 4, 4, 1), 'f')
    x[0, 1, 0] = x[0, 2, 3] = np.nan
    x[0, 0, 0] = x[0, 3, 3] = 7
    assert np.isnan(max_pool(jnp.asarray(x), 2, stride=2))[0, :, :, 0].tolist() == [
        [True, False],
        [False, True],
    ]


def test_dropout_drops_whole_maps_in_training_with_a_key_alone():
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (50, 4, 4, 40)), jnp.float32)
    pool, key = PoolDropout(0.25), {'dropout': jax.random.key(0)}
    pooled = np.asarray(x).reshape(50, 2, 2, 2, 2, 40).max(axis=(2, 4))
    dropped = np.asarray(pool.apply({}, x, train=True, rngs=key))
    kept = dropped[:, 0, 0] != 0
    # Kept maps are scaled by 1/(1 - rate), dropped ones are zero everywhere.
    np.testing.assert_allclose(dropped, pooled * kept[:, None, None] / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 2000)
    for still in (pool.apply({}, x, train=True), pool.apply({}, x, train=False, rngs=key)):
        np.testing.assert_array_equal(still, pooled)


@each_model
def test_networks_drop_out_in_training_with_a_key_alone(nets, name):
    net = nets[name]

    @jax.jit
    def train(key):
        return net.model.apply(
            net.variables, images(), train=True, mutable=['batch_stats'], rngs={'dropout': key}
        )[0]

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    np.testing.assert_array_equal(train(jax.random.key(0)), first)
    assert np.abs(first - second).max() > 1e-3
    (without, _), _ = net.train(net.variables, images())
    # A rate of 0 with a key is the same as no key.
    undropped = create_model(name, 10, **SMALL[name], dropout_rate=0.0)
    logits, _ = undropped.apply(
        net.variables, images(), train=True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)}
    )
    np.testing.assert_allclose(logits, without, rtol=1e-4, atol=1e-5)
    assert np.abs(first - without).max() > 1e-3


# Flax's BatchNorm computes its statistics wider than bfloat16, by implicit promotion.
@each_model
@jax.numpy_dtype_promotion('standard')
def test_bfloat16_keeps_wide_parameters_statistics_and_logits(nets, name):
    model = create_model(name, 10, dtype=jnp.bfloat16, **SMALL[name])
    variables = shapes(model, SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert jax.tree.structure(variables) == jax.tree.structure(nets[name].variables)

    @jax.jit
    def train(variables, x):
        return model.apply(
            variables, x, train=True, return_features=True, mutable=['batch_stats', 'intermediates'],
            capture_intermediates=True,
        )  # fmt: skip

    (logits, features), state = train(nets[name].variables, images())
    assert logits.dtype == features.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state['batch_stats'])} == {jnp.dtype('float32')}
    blocks = [v['__call__'][0] for k, v in state['intermediates'].items() if k.startswith('block')]
    assert {block.dtype for block in blocks} == {jnp.dtype('bfloat16')}
    # The same network to bfloat16's 8 bits.
    (wide, _), _ = nets[name].train(nets[name].variables, images())
    error = np.linalg.norm(logits - wide) / np.linalg.norm(wide)
    assert 1e-5 < error < 0.1


@each_model
def test_float64_is_float64_throughout(name, x64):
    model = create_model(name, 10, dtype=jnp.float64, **SMALL[name])
    with jax.numpy_dtype_promotion('standard'):
        variables = init_variables(model, jax.random.key(0), SHAPE)
        trained = jax.eval_shape(
            lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']), variables, images()
        )
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images().astype(float))
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, trained, logits))} == {jnp.dtype('float64')}
