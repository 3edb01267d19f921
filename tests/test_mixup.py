import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.methods.mixup import interpolate, sample_lambda


@pytest.mark.parametrize('gamma', [0.1, 1.0, 4.0])
def test_beta_moments(gamma):
    n = 100_000
    mixup_lambda = np.asarray(sample_lambda(jax.random.key(0), n, gamma=gamma), np.float64)
    assert mixup_lambda.min() >= 0
    assert mixup_lambda.max() <= 1
    variance = 1 / (4 * (2 * gamma + 1))
    # Five standard errors; the fourth central moment is at most variance / 4.
    assert abs(mixup_lambda.mean() - 0.5) < 5 * np.sqrt(variance / n)
    assert abs(((mixup_lambda - 0.5) ** 2).mean() - variance) < 5 * np.sqrt(variance / 4 / n)


def test_one_lambda_for_each_example_by_the_key():
    first, again = (sample_lambda(jax.random.key(1), 64, gamma=1.0) for _ in range(2))
    assert first.shape == (64,)
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 64
    assert not np.any(first == sample_lambda(jax.random.key(2), 64, gamma=1.0))


def test_interpolation_by_hand():
    first = jnp.array([[[4.0, 8.0]], [[1.0, 1.0]]])
    second = jnp.array([[[0.0, 4.0]], [[3.0, -1.0]]])
    mixture = interpolate(jnp.array([0.25, 0.5]), first, second)
    np.testing.assert_array_equal(mixture, [[[1, 5]], [[2, 0]]])


def test_ends():
    first, second = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
    mixture = interpolate(jnp.array([1.0, 0.0]), first, second)
    np.testing.assert_array_equal(mixture, [first[0], second[1]])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_dtype_is_kept(dtype):
    first, second = jnp.ones((2, 3), dtype), jnp.zeros((2, 3), dtype)
    mixture = interpolate(jnp.array([0.25, 0.75], jnp.float32), first, second)
    assert mixture.dtype == dtype
    np.testing.assert_array_equal(mixture.astype(np.float32), [[0.25] * 3, [0.75] * 3])
