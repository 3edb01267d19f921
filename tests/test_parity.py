"""The same numbers as the authors' program: its training steps in float64, and ours in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import svhn
from metasemi_jax.methods import method_options
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.optimizer import warmup_piecewise_schedule
from reference_runs import JVP_FIGURES, NETS, figures_of, load, relative_error


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(NETS))
def test_every_figure_of_every_step_in_float64(name):
    run = load(name)
    expected = {key.removeprefix('out/'): value for key, value in run.items() if key.startswith('out/')}
    actual = figures_of(name, dtype=jnp.float64, estimator='finite_difference', by_products=True)
    assert len(expected) == 13
    for key, value in expected.items():
        # The gradient of a bias before a BatchNorm is 0, and rounding in both programs.
        floor = 1e-12 * np.max(np.abs(value))
        np.testing.assert_allclose(actual[key], value, rtol=1e-9, atol=floor, err_msg=f'{name} {key}')


@pytest.mark.slow
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
