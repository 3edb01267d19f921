import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metasemi_jax.optimizer import ramp_up, sgd_momentum, warmup_cosine_schedule, warmup_piecewise_schedule

OFFICIAL = {
    0: 0.0,
    1: 0.1 / 4000,
    3999: 0.1 * 3999 / 4000,
    4000: 0.1,
    300_000: 0.1,
    300_001: 0.01,
    350_000: 0.01,
    350_001: 0.001,
    399_999: 0.001,
}


@pytest.mark.parametrize(('step', 'lr'), OFFICIAL.items())
def test_official_learning_rate(step, lr, x64):
    schedule = warmup_piecewise_schedule(0.1, warmup_steps=4000, milestones=(300_000, 350_000))
    np.testing.assert_allclose(schedule(jnp.int32(step)), lr, rtol=1e-14)


def test_learning_rate_of_a_traced_step():
    schedule = warmup_piecewise_schedule(0.1, warmup_steps=4000, milestones=(300_000, 350_000))
    jitted = jax.jit(schedule)
    for step, lr in OFFICIAL.items():
        np.testing.assert_allclose(jitted(jnp.int32(step)), lr, rtol=1e-6)
    assert jitted(jnp.int32(0)).dtype == jnp.float32
    assert jitted._cache_size() == 1


def test_learning_rate_without_warmup_or_milestones():
    schedule = warmup_piecewise_schedule(0.2, warmup_steps=0, milestones=())
    for step in (0, 1, 1_000_000):
        np.testing.assert_allclose(schedule(jnp.int32(step)), 0.2, rtol=1e-6)


def test_milestones_may_fall_by_another_factor():
    schedule = warmup_piecewise_schedule(8.0, warmup_steps=2, milestones=(3, 5), decay=0.5)
    rates = [float(schedule(jnp.int32(step))) for step in range(8)]
    assert rates == [0, 4, 8, 8, 4, 4, 2, 2]


def test_cosine_by_hand(x64):
    """Half a cosine between step 4 and step 16: a quarter, a half and three quarters on the way."""
    schedule = warmup_cosine_schedule(0.2, warmup_steps=4, total_steps=16)
    root = 0.5**0.5
    expected = {0: 0, 1: 0.05, 4: 0.2, 7: 0.1 + 0.1 * root, 10: 0.1, 13: 0.1 - 0.1 * root, 16: 0, 20: 0}
    for step, lr in expected.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), lr, atol=1e-15)


def test_cosine_without_warmup():
    schedule = warmup_cosine_schedule(0.2, warmup_steps=0, total_steps=2)
    lrs = [float(schedule(jnp.int32(step))) for step in range(3)]
    np.testing.assert_allclose(lrs, [0.2, 0.1, 0.0], atol=1e-7)


def test_ramp_up():
    assert [float(ramp_up(jnp.int32(t), 4)) for t in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert float(ramp_up(jnp.int32(0), 0)) == 1


def test_two_steps_of_sgd_by_hand(x64):
    # lr 0.1 then 0.01, momentum 0.9, decay 0.1. Kernel 1 with gradients ½ and ¼:
    #   ½ + 0.1 = 0.6; v = 0.6; 1 - 0.06 = 0.94.   ¼ + 0.094 = 0.344; v = 0.884; 0.94 - 0.00884 = 0.93116.
    # Bias 2 with no gradient still decays, as with PyTorch's SGD:
    #   0.2; v = 0.2; 2 - 0.02 = 1.98.   0.198; v = 0.378; 1.98 - 0.00378 = 1.97622.
    tx = sgd_momentum(momentum=0.9, weight_decay=0.1)
    params = {'kernel': jnp.array([[1.0]]), 'bias': jnp.array([2.0])}
    state = tx.init(params)
    expected = [(0.5, 0.1, 0.94, 1.98), (0.25, 0.01, 0.93116, 1.97622)]
    for gradient, lr, kernel, bias in expected:
        grads = {'kernel': jnp.array([[gradient]]), 'bias': jnp.array([0.0])}
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(lambda p, u, lr=lr: p - lr * u, params, updates)
        np.testing.assert_allclose(params['kernel'], [[kernel]], rtol=1e-14)
        np.testing.assert_allclose(params['bias'], [bias], rtol=1e-14)


def test_at_a_constant_rate_it_is_optax_sgd(x64):
    ours = sgd_momentum(momentum=0.9, weight_decay=1e-2)
    theirs = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.9))
    rng = np.random.default_rng(0)
    first = second = {'a': jnp.asarray(rng.normal(size=(3, 2))), 'b': (jnp.asarray(rng.normal(size=2)),)}
    our_state, their_state = ours.init(first), theirs.init(second)
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), first)
        updates, our_state = ours.update(grads, our_state, first)
        first = jax.tree.map(lambda p, u: p - 0.1 * u, first, updates)
        updates, their_state = theirs.update(grads, their_state, second)
        second = optax.apply_updates(second, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), first, second)
