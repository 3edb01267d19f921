import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metasemi_jax.meta_gradient import (
    ESTIMATORS,
    exact,
    finite_difference,
    inner_sgd_step,
    jvp,
    update_pseudo_labels,
)
from metasemi_jax.methods.losses import cross_entropy, squared_error
from metasemi_jax.models import create_model, init_variables

LR = 0.1
each_estimator = pytest.mark.parametrize('estimate', ESTIMATORS.values(), ids=ESTIMATORS)


# A line through the origin, f(x) = θx at x = 1, 2, with θ = 0.5; squared errors inside and outside.


def line_inner(theta, y):
    return jnp.sum(jnp.square(theta * jnp.array([[1.0], [2.0]]) - y))


def line_outer(theta):
    return 0.5 * jnp.square(3.0 * theta - 3.0)


@each_estimator
def test_by_hand_on_a_line(estimate):
    # y = f = (0.5, 1). ∇L_l = 3(3θ - 3) = -4.5; θ̃ = θ - lr Σ 2x(θx - y), so dθ̃/dy = 2 lr x = (0.2, 0.4).
    y = jnp.array([[0.5], [1.0]])
    gradient = estimate(line_outer, line_inner, jnp.float32(0.5), y, lr=LR)
    np.testing.assert_allclose(gradient, [[-0.9], [-1.8]], rtol=1e-4)


@pytest.mark.parametrize(
    'estimate',
    [exact, *(functools.partial(estimate, at_inner_step=True) for estimate in (jvp, finite_difference))],
    ids=ESTIMATORS,
)
def test_by_hand_on_a_line_away_from_the_predictions(estimate):
    # y = (1, 1): Σ 2x(θx - y) = 2(-0.5) + 4(0) = -1, θ̃ = 0.6, ∇L_l(θ̃) = 3(1.8 - 3) = -3.6, times (0.2, 0.4).
    y = jnp.array([[1.0], [1.0]])
    np.testing.assert_allclose(inner_sgd_step(line_inner, jnp.float32(0.5), y, lr=LR), 0.6, rtol=1e-6)
    gradient = estimate(line_outer, line_inner, jnp.float32(0.5), y, lr=LR)
    np.testing.assert_allclose(gradient, [[-0.72], [-1.44]], rtol=1e-4)


@each_estimator
def test_by_hand_on_a_softmax(estimate):
    # One image, two classes, f = softmax(θ, 0) at θ = 0: f = (½, ½), df/dθ = (¼, -¼). Its label is class 0:
    # ∇L_l = -(1 - ½) = -½. 2 lr J g = 2 · 0.1 · (¼, -¼) · -½ = (-0.025, 0.025): towards class 0.
    def probs(theta):
        return jax.nn.softmax(jnp.stack([theta, jnp.zeros_like(theta)]))[None]

    gradient = estimate(
        lambda theta: -jnp.log(probs(theta)[0, 0]),
        lambda theta, y: jnp.sum(jnp.square(probs(theta) - y)),
        jnp.float32(0.0),
        jnp.array([[0.5, 0.5]]),
        lr=LR,
    )
    np.testing.assert_allclose(gradient, [[-0.025, 0.025]], rtol=1e-3)


# A real network: conv_small with BatchNorm and random running statistics, in float64.


class Net:
    def __init__(self):
        rng = np.random.default_rng(0)
        model = create_model('conv_small', 3, width=4, dtype=jnp.float64)
        with jax.numpy_dtype_promotion('standard'):  # Flax's BatchNorm is made in float32
            variables = init_variables(model, jax.random.key(0), (8, 8, 1))
        self.params = variables['params']
        stats = {
            block: {'bn': {'mean': rng.normal(0, 0.1, s['bn']['mean'].shape),
                           'var': rng.uniform(0.5, 1.5, s['bn']['var'].shape)}}
            for block, s in variables['batch_stats'].items()
        }  # fmt: skip
        labeled, self.unlabeled = rng.normal(size=(2, 4, 8, 8, 1))
        labels = np.array([0, 1, 2, 2])
        self.other_labels = rng.dirichlet(np.ones(3), 4)

        def logits(params, images):
            return model.apply({'params': params, 'batch_stats': stats}, images, train=False)

        self.probs = lambda params: jax.nn.softmax(logits(params, self.unlabeled))
        self.outer = lambda params: jnp.mean(cross_entropy(logits=logits(params, labeled), labels=labels))
        self.inner = lambda params, y: jnp.sum(squared_error(probs=self.probs(params), targets=y))

    def estimates(self, params, other_labels):
        predicted = self.probs(params)
        on = {'outer_loss': self.outer, 'inner_loss': self.inner, 'params': params}
        g = jax.grad(self.outer)(params)
        products = jax.tree.map(lambda j, d: jnp.tensordot(j, d, d.ndim), jax.jacrev(self.probs)(params), g)
        at_predictions = functools.partial(finite_difference, **on, pseudo_labels=predicted, lr=LR)
        return {
            'jacobian': 2 * LR * sum(jax.tree.leaves(products)),
            'exact': exact(**on, pseudo_labels=predicted, lr=LR),
            'jvp': jvp(**on, pseudo_labels=predicted, lr=LR),
            'central': [at_predictions(epsilon=1e-3 / 2**n) for n in range(3)],
            'exact_elsewhere': exact(**on, pseudo_labels=other_labels, lr=LR),
            'jvp_elsewhere': jvp(**on, pseudo_labels=other_labels, lr=LR, at_inner_step=True),
            'jvp_at_start': jvp(**on, pseudo_labels=other_labels, lr=LR),
            'central_elsewhere': finite_difference(
                **on, pseudo_labels=other_labels, lr=LR, epsilon=1e-3, at_inner_step=True
            ),
        }


@pytest.fixture(scope='module')
def net():
    with jax.enable_x64(True):
        net = Net()
        net.results = jax.device_get(jax.jit(net.estimates)(net.params, net.other_labels))
    return net


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_exact_and_jvp_agree_on_a_network(net):
    assert net.results['jvp'].dtype == np.float64
    assert np.abs(net.results['jvp']).min() > 1e-6
    np.testing.assert_allclose(net.results['jvp'], net.results['exact'], rtol=1e-10)


def test_both_are_twice_lr_times_jacobian_times_gradient(net):
    np.testing.assert_allclose(net.results['jvp'], net.results['jacobian'], rtol=1e-10)


def test_central_difference_has_an_error_of_second_order(net):
    errors = [distance(central, net.results['jvp']) for central in net.results['central']]
    assert 3.8 < errors[0] / errors[1] < 4.2
    assert 3.8 < errors[1] / errors[2] < 4.2


def test_other_pseudo_labels_need_the_gradient_at_the_inner_step(net):
    results = net.results
    np.testing.assert_allclose(results['jvp_elsewhere'], results['exact_elsewhere'], rtol=1e-10)
    assert distance(results['central_elsewhere'], results['exact_elsewhere']) < 1e-5
    assert distance(results['jvp_at_start'], results['exact_elsewhere']) > 1e-2


def test_labeled_loss_after_the_inner_step_has_these_derivatives(net, x64):
    def after_step(y):
        return net.outer(inner_sgd_step(net.inner, net.params, y, lr=LR))

    compiled = jax.jit(after_step)
    check_grads(compiled, (jnp.asarray(net.other_labels),), order=1, modes=['fwd', 'rev'], eps=1e-5)
    # So moving the predictions against it lowers that loss, by its squared length in first order.
    predicted, gradient = jax.jit(net.probs)(net.params), net.results['jvp']
    fall = compiled(predicted) - compiled(predicted - 1e-3 * gradient)
    np.testing.assert_allclose(fall / 1e-3, np.sum(gradient**2), rtol=1e-2)


# A two-layer network without Flax, its parameters in any container.

NESTED = {
    'dict': lambda w, b, v: {'first': {'kernel': w, 'bias': b}, 'second': v},
    'tuple': lambda w, b, v: ((w, b), v),
    'list': lambda w, b, v: [w, [b, v]],
}
X_OUTER, X_INNER = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(np.float32)
WEIGHTS = [np.random.default_rng(2).normal(size=s).astype(np.float32) for s in ((2, 5), (5,), (5, 4))]


def plain_losses(dtype=np.float32):
    def probs(params, x):
        # Whatever holds them: the vector is b, the smaller matrix w, the larger v.
        b, w, v = sorted(jax.tree.leaves(params), key=lambda leaf: (leaf.ndim, leaf.shape))
        return jax.nn.softmax(jnp.tanh(jnp.asarray(x, dtype) @ w + b) @ v)

    def outer(params):
        return -jnp.sum(jnp.log(probs(params, X_OUTER)[:, 1]))

    def inner(params, y):
        return jnp.sum(jnp.square(probs(params, X_INNER).astype(y.dtype) - y))

    return probs, outer, inner


@pytest.fixture(scope='module')
def plain_answer():
    with jax.enable_x64(True):
        params = [w.astype(np.float64) for w in WEIGHTS]
        probs, outer, _ = plain_losses(np.float64)
        rows, g = jax.jacfwd(probs)(params, X_INNER), jax.grad(outer)(params)
        return np.asarray(2 * LR * sum(jnp.tensordot(j, d, d.ndim) for j, d in zip(rows, g, strict=True)))


@each_estimator
@pytest.mark.parametrize('nest', NESTED.values(), ids=NESTED)
def test_any_pytree_of_parameters(estimate, nest, plain_answer):
    params = nest(*WEIGHTS)
    probs, outer, inner = plain_losses()
    gradient = jax.jit(lambda p: estimate(outer, inner, p, probs(p, X_INNER), lr=LR))(params)
    assert distance(gradient, plain_answer) < 2e-3
    stepped = inner_sgd_step(inner, params, probs(params, X_INNER), lr=LR)
    assert jax.tree.structure(stepped) == jax.tree.structure(params)


@each_estimator
@pytest.mark.parametrize('param_dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('label_dtype', ['float32', 'bfloat16'])
def test_dtype_is_kept(estimate, param_dtype, label_dtype, plain_answer):
    params = [jnp.asarray(w, param_dtype) for w in WEIGHTS]
    probs, outer, inner = plain_losses(param_dtype)
    y = probs(params, X_INNER).astype(label_dtype)
    # A float32 array as rate, as a schedule gives it: it must not widen anything, nor fail strict promotion.
    for lr in (LR, jnp.float32(LR)):
        stepped = jax.eval_shape(lambda p, y, lr=lr: inner_sgd_step(inner, p, y, lr=lr), params, y)
        assert [leaf.dtype for leaf in stepped] == [param_dtype] * 3
    # A step of 1e-2 is lost in bfloat16's rounding; one of ½ is not.
    options = {'epsilon': 0.5} if estimate is finite_difference else {}
    gradient = jax.jit(lambda p, y, lr: estimate(outer, inner, p, y, lr=lr, **options))(params, y, lr)
    assert gradient.dtype == label_dtype
    assert distance(gradient.astype(np.float32), plain_answer) < 0.15


@each_estimator
def test_no_labeled_gradient_gives_zero(estimate):
    params = [jnp.asarray(w) for w in WEIGHTS]
    probs, _, inner = plain_losses()
    gradient = estimate(lambda p: 0 * jnp.sum(p[0]), inner, params, probs(params, X_INNER), lr=LR)
    np.testing.assert_array_equal(gradient, np.zeros((3, 4)))


@each_estimator
def test_linear_in_the_learning_rate(estimate, x64):
    # At y = f; traced, so that one compilation serves every rate of a schedule.
    probs, outer, inner = plain_losses(np.float64)
    params = [jnp.asarray(w, float) for w in WEIGHTS]
    y = probs(params, X_INNER)
    at = jax.jit(lambda lr: estimate(outer, inner, params, y, lr=lr))
    one = at(jnp.float32(0.25))
    np.testing.assert_allclose(at(jnp.float32(0.5)), 2 * one, rtol=1e-9)
    np.testing.assert_allclose(estimate(outer, inner, params, y, lr=0.25), one, rtol=1e-9)
    np.testing.assert_array_equal(at(jnp.float32(0)), np.zeros((3, 4)))
    assert at._cache_size() == 1


# The update.


def test_update_by_hand():
    pseudo = jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.25, 0.5, 0.25]])
    gradient = jnp.array([[0.1, 0.5, -0.2], [-0.1, 0.1, 0.0], [0.0, 0.0, 0.0]])
    # Row 1: (0.4, -0.2, 0.4), cut to (0.4, 0, 0.4). Row 2: (0.6, 0.2, 0.2), whose sum is 1. Row 3 stays.
    expected = [[0.5, 0.0, 0.5], [0.6, 0.2, 0.2], [0.25, 0.5, 0.25]]
    np.testing.assert_allclose(update_pseudo_labels(pseudo, gradient), expected, rtol=1e-6)
    # β = ½. Row 1: (0.45, 0.05, 0.3) / 0.8. Row 2: (0.55, 0.25, 0.2).
    expected = [[0.5625, 0.0625, 0.375], [0.55, 0.25, 0.2], [0.25, 0.5, 0.25]]
    np.testing.assert_allclose(update_pseudo_labels(pseudo, gradient, meta_lr=0.5), expected, rtol=1e-6)


def test_update_leaves_an_emptied_row_all_zero():
    pseudo = jnp.array([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]])
    gradient = jnp.array([[0.5, 0.75], [0.0, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(update_pseudo_labels(pseudo, gradient), [[0, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('scale', [0.01, 0.3, 10.0])
def test_update_against_numpy(seed, scale):
    rng = np.random.default_rng(seed)
    pseudo = rng.dirichlet(np.full(10, 0.3), 50).astype(np.float32)
    gradient = rng.normal(0, scale, (50, 10)).astype(np.float32)
    updated = np.asarray(update_pseudo_labels(pseudo, gradient))
    moved = np.clip(pseudo - gradient, 0, None)
    kept = moved.sum(axis=1) > 0
    np.testing.assert_allclose(updated[kept], moved[kept] / moved[kept].sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(updated[~kept], 0)
    np.testing.assert_allclose(updated[kept].sum(axis=1), 1, rtol=1e-6)
    assert updated.min() >= 0


def test_update_without_a_meta_learning_rate_is_the_identity():
    rng = np.random.default_rng(0)
    pseudo = rng.dirichlet(np.ones(10), 50).astype(np.float32)
    gradient = rng.normal(0, 100, (50, 10)).astype(np.float32)
    np.testing.assert_allclose(update_pseudo_labels(pseudo, gradient, meta_lr=0.0), pseudo, rtol=1e-6)


def test_update_keeps_dtype_and_takes_a_traced_rate():
    pseudo = jnp.array([[0.5, 0.5]], jnp.bfloat16)
    gradient = jnp.array([[0.25, -0.25]], jnp.float32)
    updated = jax.jit(lambda b: update_pseudo_labels(pseudo, gradient, meta_lr=b))(jnp.float32(1))
    assert updated.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updated.astype(np.float32), [[0.25, 0.75]])
