"""The same numbers as the authors' program: its training steps in float64, and ours in float32."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import svhn
from metasemi_jax.methods import method_options
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.optimizer import warmup_piecewise_schedule
from reference_runs import (
    CONVOLUTION,
    JVP_FIGURES,
    NETS,
    convolution_by_products,
    figures_of,
    load,
    relative_error,
)


@pytest.mark.parametrize('name', sorted(NETS))
def test_every_figure_of_every_step_in_float64(name):
    actual = figures_of(name, dtype=jnp.float64, estimator='finite_difference', by_products=True)
    assert_equal_to_reference(name, actual)


@pytest.mark.skipif(
    os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] != '0',
    reason='takes half a minute; .ci/run has it, compiled as users do',
)
def test_the_first_step_with_the_programs_own_convolution():
    actual = figures_of('convlarge_mixup', dtype=jnp.float64, estimator='finite_difference', num_steps=1)
    assert_equal_to_reference('convlarge_mixup', actual)


def assert_equal_to_reference(name, actual):
    prefix = 'out/'
    expected = {
        key.removeprefix(prefix): value for key, value in load(name).items() if key.startswith(prefix)
    }
    assert len(expected) == 13
    for key, value in expected.items():
        # The gradient of a bias before a BatchNorm is 0, and rounding in both programs.
        floor = 1e-12 * np.max(np.abs(value))
        value = value[: len(actual[key])]
        np.testing.assert_allclose(actual[key], value, rtol=1e-9, atol=floor, err_msg=f'{name} {key}')


@pytest.mark.parametrize(('size', 'stride', 'padding'), [(3, 1, 'SAME'), (3, 2, 'SAME'), (1, 2, 'VALID')])
def test_a_convolution_by_products_is_a_convolution(size, stride, padding):
    rng = np.random.default_rng(0)
    images, kernel = (
        jnp.asarray(rng.normal(size=(2, 7, 6, 3))),
        jnp.asarray(rng.normal(size=(size, size, 3, 4))),
    )
    options = {
        'lhs_dilation': (1, 1),
        'rhs_dilation': (1, 1),
        'dimension_numbers': jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
        'feature_group_count': 1,
    }

    def value_and_gradients(convolution):
        def loss(images, kernel):
            return jnp.sin(convolution(images, kernel, (stride, stride), padding, **options)).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(images, kernel)

    with jax.enable_x64(True):
        images, kernel = jnp.asarray(images, jnp.float64), jnp.asarray(kernel, jnp.float64)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12),
            *map(value_and_gradients, (convolution_by_products, CONVOLUTION)),
        )


def test_float32_with_jvp_is_within_a_thousandth_of_float64():
    # Compared with `jvp` in float64: the reference's central difference is itself 0.8-2.8% off.
    with np.load(JVP_FIGURES) as file:
        expected = dict(file)
    actual = figures_of('convlarge_mixup', dtype=jnp.float32, estimator='jvp')
    assert actual.keys() == expected.keys()
    errors = {key: relative_error(actual[key], expected[key]) for key in expected}
    assert max(errors.values()) < 1e-3, errors


def test_jvp_figures_begin_where_the_reference_does():
    # Before the first meta-gradient the estimator plays no part, and the recorded jvp is close to the
    # reference's central difference.
    with np.load(JVP_FIGURES) as file:
        jvp = dict(file)
    run = load('convlarge_mixup')
    for key in ('label_loss', 'label_grad_norm', 'initial_pseudo', 'label_logits'):
        np.testing.assert_allclose(jvp[key][0], run[f'out/{key}'][0], rtol=1e-9)
    assert 1e-4 < relative_error(jvp['pseudo_grad'][0], run['out/pseudo_grad'][0]) < 0.05


def official_lr(step):
    lr = 0.1
    if step < 4000:
        return lr * step / 4000
    for milestone in (300_000, 350_000):
        if step > milestone:
            lr *= 0.1
    return lr


@pytest.mark.parametrize('step', [0, 1, 3999, 4000, 300_000, 300_001, 350_000, 350_001])
def test_learning_rate_and_consistency_weight_are_the_official_ones(step):
    config, own = svhn.get_config(), method_options('metasemi')
    assert config.method.consistency_weight is config.method.rampup_steps is None
    optimizer = config.optimizer
    for x64, rtol in ((False, 3e-7), (True, 1e-15)):
        with jax.enable_x64(x64):
            schedule = warmup_piecewise_schedule(
                optimizer.lr, warmup_steps=optimizer.warmup_steps, milestones=optimizer.milestones
            )
            np.testing.assert_allclose(schedule(jnp.int32(step)), official_lr(step), rtol=rtol)
            weight = linear_ramp(own['consistency_weight'], own['rampup_steps'])(jnp.int32(step))
            np.testing.assert_allclose(weight, min(step / 4000, 1), rtol=rtol)
