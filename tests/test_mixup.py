import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metasemi_jax.methods.mixup import interpolate, sample_lambda


@pytest.mark.parametrize('gamma', [0.1, 0.75, 1.0, 4.0])
def test_beta_distribution(gamma):
    n = 100_000
    mixup_lambda = np.float64(sample_lambda(jax.random.key(0), n, gamma=gamma))
    assert mixup_lambda.min() >= 0
    assert mixup_lambda.max() <= 1
    # Near 1 numbers lie too far apart for a small γ, so the lower half is compared, and how many it holds.
    lower = mixup_lambda[mixup_lambda < 0.5]
    assert abs(len(lower) - n / 2) < 2.5 * np.sqrt(n)  # five standard deviations
    beta = stats.beta(gamma, gamma)
    assert stats.kstest(lower, lambda x: 2 * beta.cdf(x)).pvalue > 0.001
    # And the whole by its moments; the fourth central one is at most variance / 4. Five standard errors.
    variance = 1 / (4 * (2 * gamma + 1))
    assert abs(mixup_lambda.mean() - 0.5) < 5 * np.sqrt(variance / n)
    assert abs(((mixup_lambda - 0.5) ** 2).mean() - variance) < 5 * np.sqrt(variance / 4 / n)


@pytest.mark.parametrize('gamma', [0.1, 4.0])
def test_lambda_is_drawn_without_a_loop(gamma):
    drawn = jax.make_jaxpr(lambda key: sample_lambda(key, 8, gamma=gamma))(jax.random.key(0))
    assert 'while' not in str(drawn)


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
