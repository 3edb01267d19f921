import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.models import create_model
from metasemi_jax.models.shake_shake import ShakeBlock, shake


@pytest.fixture(scope='module')
def net():
    model = create_model('shake_shake26', 3, width=2)
    shapes = jax.eval_shape(lambda key: model.init(key, images(1), train=False), jax.random.key(0))
    # Drawn by NumPy: compiling 260 small draws would take longer than all the tests.
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), jnp.float32), shapes)
    return model, variables


def images(count):
    return jax.random.normal(jax.random.key(1), (count, 8, 8, 3))


def coefficients(count, key):
    """α and β of each example, as the values and the gradient of `shake` show them."""
    ones, zeros = jnp.ones((count, 2, 2, 3)), jnp.zeros((count, 2, 2, 3))
    return shake(ones, zeros, key), jax.grad(lambda first: jnp.sum(shake(first, zeros, key)))(ones)


def test_shake_draws_one_alpha_and_one_beta_for_each_example():
    alpha, beta = coefficients(5, jax.random.key(0))
    for drawn in (alpha, beta):
        # Equal up to the rounding of β·d + (α - β)·d.
        np.testing.assert_allclose(drawn, np.broadcast_to(drawn[:, :1, :1, :1], drawn.shape), atol=1e-6)
        assert len(np.unique(np.round(drawn[:, 0, 0, 0], 4))) == 5


def test_backward_coefficient_is_independent_of_the_forward_one():
    alpha, beta = (np.asarray(drawn[:, 0, 0, 0]) for drawn in coefficients(20_000, jax.random.key(1)))
    assert abs(np.corrcoef(alpha, beta)[0, 1]) < 0.03
    for drawn in (alpha, beta):
        assert drawn.min() >= -1e-6
        assert drawn.max() <= 1 + 1e-6
        assert abs(drawn.mean() - 0.5) < 0.01
        assert abs(drawn.std() - np.sqrt(1 / 12)) < 0.01


def test_the_two_branches_share_the_whole():
    first, second = jax.random.normal(jax.random.key(2), (2, 4, 2, 2, 3))
    key = jax.random.key(3)
    grads = jax.grad(lambda pair: jnp.sum(shake(*pair, key)))((first, second))
    np.testing.assert_allclose(grads[0] + grads[1], 1, atol=1e-6)
    alpha = coefficients(4, key)[0][:, :1, :1, :1]
    np.testing.assert_allclose(
        shake(first, second, key), alpha * first + (1 - alpha) * second, rtol=1e-5, atol=1e-6
    )


def test_without_a_key_both_ways_are_a_half():
    first, second = jax.random.normal(jax.random.key(2), (2, 4, 2, 2, 3))
    out, grads = jax.value_and_grad(lambda pair: jnp.sum(shake(*pair, None)))((first, second))
    np.testing.assert_allclose(out, jnp.sum(first + second) / 2, rtol=1e-5)
    np.testing.assert_allclose(grads, 0.5)


def test_evaluation_is_deterministic_and_training_is_not(net):
    model, variables = net
    same = jnp.tile(images(1), (4, 1, 1, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, rngs):
        return model.apply(variables, same, train=train, mutable=['batch_stats'], rngs=rngs)[0]

    def logits(train, key=None):
        return np.asarray(apply(train, None if key is None else {'dropout': jax.random.key(key)}))

    np.testing.assert_array_equal(logits(False), logits(False, key=1))
    np.testing.assert_allclose(logits(True), np.broadcast_to(logits(True)[:1], (4, 3)), rtol=1e-5, atol=1e-6)
    shaken = logits(True, key=1)
    assert np.ptp(shaken, axis=0).min() > 1e-4  # equal images, each with its own coefficients
    assert np.abs(shaken - logits(True, key=2)).max() > 1e-4
    np.testing.assert_array_equal(shaken, logits(True, key=1))


def test_forward_mode_agrees_with_reverse_mode_through_the_shake():
    block, batch = ShakeBlock(4, stride=2), images(4)
    variables = block.init(jax.random.key(0), batch, train=False)

    def outputs(params):
        out, _ = block.apply(
            {'params': params, 'batch_stats': variables['batch_stats']},
            batch,
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(4)},
        )
        return out

    @jax.jit
    def both(params, tangent, cotangent):
        _, forward = jax.jvp(outputs, (params,), (tangent,))
        _, pull_back = jax.vjp(outputs, params)
        (backward,) = pull_back(cotangent)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), tangent, backward)
        return jnp.sum(forward * cotangent), sum(jax.tree.leaves(products))

    params = variables['params']
    tangent = jax.tree.map(lambda p: 0.1 * jax.random.normal(jax.random.key(5), p.shape), params)
    forward, backward = both(params, tangent, jax.random.normal(jax.random.key(6), (4, 4, 4, 4)))
    assert abs(forward) > 1e-2
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


def test_features_are_what_the_classifier_sees(net):
    model, variables = net
    logits, features = model.apply(variables, images(2), train=False, return_features=True)
    layer = variables['params']['classifier']
    assert features.shape == (2, 8)
    np.testing.assert_allclose(logits, features @ layer['kernel'] + layer['bias'], rtol=1e-5, atol=1e-6)


def test_sizes_that_cannot_be_halved_twice_are_refused(net):
    with pytest.raises(UserError, match='multiples of 4, not 10×8'):
        net[0].apply(net[1], jnp.zeros((1, 10, 8, 3)), train=False)
