import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits
from metasemi_jax.optimizer import (
    OPTIMIZERS,
    cosine_7_16_schedule,
    make_optimizer,
    ramp_up,
    warmup_cosine_schedule,
    warmup_piecewise_schedule,
)
from metasemi_jax.training.experiment import _lr_schedule, build_optimizer

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
    traces = []

    @jax.jit
    def jitted(step):
        traces.append(step)
        return schedule(step)

    for step, lr in OFFICIAL.items():
        np.testing.assert_allclose(jitted(jnp.int32(step)), lr, rtol=1e-6)
    assert jitted(jnp.int32(0)).dtype == jnp.float32
    assert len(traces) == 1


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


def test_cosine_7_16_by_hand(x64):
    """7πt/(16·21) is π/6 at step 8, π/4 at 12, π/3 at 16; 7π/16 at the end, and it stays there."""
    end = np.cos(7 * np.pi / 16)
    np.testing.assert_allclose(end, 0.195, atol=1e-4)
    factors = {0: 1, 8: 0.75**0.5, 12: 0.5**0.5, 16: 0.5, 21: end, 30: end}
    for warmup in (0, 4):
        schedule = cosine_7_16_schedule(0.03, warmup_steps=warmup, total_steps=warmup + 21)
        for step, factor in factors.items():
            np.testing.assert_allclose(schedule(jnp.int32(warmup + step)), 0.03 * factor, rtol=1e-14)
    for step in range(5):
        np.testing.assert_allclose(schedule(jnp.int32(step)), 0.03 * step / 4, rtol=1e-14)


def test_cosine_7_16_of_a_traced_step():
    schedule = jax.jit(cosine_7_16_schedule(0.03, warmup_steps=0, total_steps=2**20))
    assert schedule(jnp.int32(0)).dtype == jnp.float32
    np.testing.assert_allclose(schedule(jnp.int32(2**19)), 0.03 * np.cos(7 * np.pi / 32), rtol=1e-6)


def test_ramp_up():
    assert [float(ramp_up(jnp.int32(t), 4)) for t in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert float(ramp_up(jnp.int32(0), 0)) == 1


def test_two_steps_of_sgd_by_hand(x64):
    # lr 0.1 then 0.01, momentum 0.9, decay 0.1. Kernel 1 with gradients ½ and ¼:
    #   ½ + 0.1 = 0.6; v = 0.6; 1 - 0.06 = 0.94.   ¼ + 0.094 = 0.344; v = 0.884; 0.94 - 0.00884 = 0.93116.
    # Bias 2 with no gradient still decays, as with PyTorch's SGD:
    #   0.2; v = 0.2; 2 - 0.02 = 1.98.   0.198; v = 0.378; 1.98 - 0.00378 = 1.97622.
    tx = make_optimizer('sgd', momentum=0.9, weight_decay=0.1)
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
    ours = make_optimizer('sgd', momentum=0.9, weight_decay=1e-2)
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


def test_three_steps_of_nesterov_by_hand(x64):
    # PyTorch's v ← μv + g, θ ← θ - lr(g + μv), with lr 0.1, momentum 0.9, decay 0.1, θ = 1:
    #   g = ½ + 0.1 = 0.6; v = 0.6; 0.6 + 0.54 = 1.14; θ = 1 - 0.114.
    #   g = ¼ + 0.0886; v = 0.54 + 0.3386 = 0.8786; 0.3386 + 0.79074 = 1.12934; θ = 0.886 - 0.112934.
    #   g = -1 + 0.0773066; v = 0.79074 - 0.9226934 = -0.1319534; -0.9226934 - 0.11875806 = -1.04145146.
    tx = make_optimizer('sgd', momentum=0.9, nesterov=True, weight_decay=0.1)
    param = jnp.array(1.0)
    state = tx.init(param)
    for gradient, expected in [(0.5, 0.886), (0.25, 0.773066), (-1.0, 0.877211146)]:
        update, state = tx.update(jnp.array(gradient), state, param)
        param = param - 0.1 * update
        np.testing.assert_allclose(param, expected, rtol=1e-14)


# Of gradients 1, 3, -2 from zero moments: m = 0.1, 0.39, 0.151 and s = 0.001, 0.009999, 0.013989001, each
# divided by 1 - 0.9ᵗ = 0.1, 0.19, 0.271 and 1 - 0.999ᵗ = 0.001, 0.001999, 0.002997001.
ADAM = [
    (1.0, 1 / (1 + 1e-8)),
    (3.0, (0.39 / 0.19) / ((0.009999 / 0.001999) ** 0.5 + 1e-8)),
    (-2.0, (0.151 / 0.271) / ((0.013989001 / 0.002997001) ** 0.5 + 1e-8)),
]


def test_three_steps_of_adam_by_hand(x64):
    """The decay is part of the gradient: gradients that leave it out give the updates of the table."""
    tx = make_optimizer('adam', weight_decay=0.2)
    param = jnp.array(1.0)
    state = tx.init(param)
    for gradient, expected in ADAM:
        update, state = tx.update(gradient - 0.2 * param, state, param)
        np.testing.assert_allclose(update, expected, rtol=1e-12)
        param = param - 0.1 * update


def test_three_steps_of_adamw_by_hand(x64):
    """The decay stays beside the gradient, whose moments do not see it."""
    tx = make_optimizer('adamw', weight_decay=0.2)
    param, by_hand = jnp.array(1.0), 1.0
    state = tx.init(param)
    for gradient, adam in ADAM:
        update, state = tx.update(jnp.array(gradient), state, param)
        param = param - 0.1 * update
        by_hand -= 0.1 * (adam + 0.2 * by_hand)
        np.testing.assert_allclose(param, by_hand, rtol=1e-12)


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_adam_adds_its_epsilon_to_the_root(name, x64):
    tx = make_optimizer(name)
    update, _ = tx.update(jnp.array(1e-8), tx.init(jnp.array(1.0)), jnp.array(1.0))
    np.testing.assert_allclose(update, 0.5, rtol=1e-12)


def test_momentum_is_the_first_beta_of_adam(x64):
    # m = ½, then ½·½ - ½·1 = -¼; divided by ¾, and by √1.
    tx = make_optimizer('adam', momentum=0.5)
    state = tx.init(jnp.array(1.0))
    for gradient, expected in [(1.0, 1.0), (-1.0, -1 / 3)]:
        update, state = tx.update(jnp.array(gradient), state, jnp.array(1.0))
        np.testing.assert_allclose(update, expected, rtol=1e-7)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_decay_on_kernels_alone(name, x64):
    params = {
        'block': {'conv': {'kernel': jnp.full((3, 3, 1, 2), 2.0)}, 'bn': {'scale': jnp.ones(2)}},
        'classifier': {'kernel': jnp.array([[-4.0], [4.0]]), 'bias': jnp.ones(1)},
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    kernels, everything = (
        tx.update(zeros, tx.init(params), params)[0]
        for tx in (make_optimizer(name, weight_decay=0.5, weight_decay_on=on) for on in ('kernels', 'all'))
    )
    assert not kernels['block']['bn']['scale'].any()
    assert not kernels['classifier']['bias'].any()
    # Coupled, Adam divides the decay by its own root: ±1.
    expected = [1.0, -1.0, 1.0] if name == 'adam' else [1.0, -2.0, 2.0]
    np.testing.assert_allclose(kernels['block']['conv']['kernel'], expected[0], rtol=1e-6)
    np.testing.assert_allclose(kernels['classifier']['kernel'][:, 0], expected[1:], rtol=1e-6)
    for updates in (everything['block']['bn']['scale'], everything['classifier']['bias']):
        np.testing.assert_allclose(updates, 1.0 if name == 'adam' else 0.5, rtol=1e-6)


def test_plain_sgd_is_the_program_it_was():
    """The same state, so that old checkpoints restore, and the same operations, so that runs continue."""
    params = {'conv': {'kernel': jnp.ones((2, 2))}, 'bn': {'scale': jnp.ones(2)}}
    before = optax.chain(optax.add_decayed_weights(1e-4), optax.trace(decay=0.9))
    now = make_optimizer('sgd', momentum=0.9, weight_decay=1e-4)
    assert jax.tree.structure(now.init(params)) == jax.tree.structure(before.init(params))
    programs = {str(jax.make_jaxpr(tx.update)(params, tx.init(params), params)) for tx in (before, now)}
    assert len(programs) == 1


def test_misuse_is_an_error():
    with pytest.raises(ValueError, match="unknown optimizer 'lamb'"):
        make_optimizer('lamb')
    with pytest.raises(ValueError, match="decay on 'biases'"):
        make_optimizer('sgd', weight_decay_on='biases')
    with pytest.raises(ValueError, match="'adam' has no Nesterov"):
        make_optimizer('adam', nesterov=True)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'nesterov': True, 'momentum': 0.8, 'weight_decay': 0.3},
        {'name': 'adamw', 'weight_decay_on': 'kernels'},
    ],
)
def test_the_config_names_the_optimizer(options):
    config = digits.get_config()
    config.optimizer.update(options)
    defaults = {'name': 'sgd', 'momentum': 0.9, 'weight_decay': config.optimizer.weight_decay}
    params = {'conv': {'kernel': jnp.ones((2, 2))}, 'bn': {'scale': jnp.ones(2)}}
    programs = {
        str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
        for tx in (build_optimizer(config), make_optimizer(**(defaults | options)))
    }
    assert len(programs) == 1


def test_the_config_names_the_schedule():
    config = digits.get_config()
    config.total_steps, config.optimizer.lr, config.optimizer.warmup_steps = 21, 0.2, 0
    factors = {'milestones': 1, 'cosine': (1 + np.cos(np.pi * 12 / 21)) / 2, 'cosine_7_16': 0.5**0.5}
    for config.optimizer.schedule, factor in factors.items():
        rate = _lr_schedule(config, 0.5)(jnp.int32(12))
        np.testing.assert_allclose(rate, 0.5 * 0.2 * factor, rtol=1e-6)
