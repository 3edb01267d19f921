import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.ema import EMA_CONVENTIONS, update_ema


def variables(param, statistic):
    return {
        'params': {'conv': {'kernel': jnp.full((2, 1), param, jnp.float32)}},
        'batch_stats': {'bn': {'mean': jnp.full(1, statistic, jnp.float32)}},
    }


def averages(convention, steps):
    """(parameter, statistic) of the average after each step of decay ¾, from -100 and 100."""
    ema = variables(-100.0, 100.0)
    update = jax.jit(functools.partial(update_ema, decay=0.75, convention=convention), donate_argnums=0)
    for step, values in enumerate(steps):
        structure = jax.tree.map(jnp.shape, ema)
        ema = update(ema, variables(*values), jnp.int32(step))
        assert jax.tree.map(jnp.shape, ema) == structure
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ema))
        yield float(ema['params']['conv']['kernel'][0, 0]), float(ema['batch_stats']['bn']['mean'][0])


def test_mean_teacher_begins_with_a_plain_mean_and_averages_the_statistics():
    # Keep 0, ½, ⅔, ¾, then 0.75 rather than ⅘.
    steps = [(1, -2), (2, -4), (6, -12), (8, -16), (0, 0)]
    expected = [(1, -2), (1.5, -3), (3, -6), (4.25, -8.5), (3.1875, -6.375)]
    np.testing.assert_allclose(list(averages('mean_teacher', steps)), expected, rtol=1e-6)


def test_constant_keeps_the_decay_from_the_first_step_and_the_raw_statistics():
    # -75 + 1; -55.5 + 0.5; -41.25 + 1.5: all exact in float32.
    steps = [(4, 7), (2, 0.1), (6, -3)]
    expected = [(-74, 7), (-55, np.float32(0.1)), (-39.75, -3)]
    assert list(averages('constant', steps)) == expected


def test_a_state_may_be_donated_with_the_average_that_shares_its_statistics():
    """`constant` returns the statistics of the model: two outputs of one value must not be one buffer."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        model = jax.tree.map(lambda leaf: leaf + 1, state['model'])
        ema = update_ema(state['ema'], model, jnp.int32(0), 0.75, convention='constant')
        return {'model': model, 'ema': ema}

    state = {'model': variables(0.0, 0.0), 'ema': variables(0.0, 0.0)}
    for _ in range(3):
        state = step(state)
    assert state['ema']['batch_stats']['bn']['mean'] == 3


@pytest.mark.parametrize('convention', EMA_CONVENTIONS)
def test_without_an_average_there_is_none(convention):
    assert update_ema({}, variables(1.0, 1.0), jnp.int32(0), 0.9, convention=convention) == {}


def test_an_unknown_convention_is_an_error():
    with pytest.raises(ValueError, match="unknown EMA convention 'plain'"):
        update_ema(variables(1.0, 1.0), variables(1.0, 1.0), jnp.int32(0), 0.9, convention='plain')
