import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax.metrics import add, all_finite, compute, mean_of, pseudo_label_metrics


def test_mean_of_by_hand():
    np.testing.assert_array_equal(mean_of(jnp.array([[1.0, 2.0], [3.0, 6.0]])), [12, 4])
    np.testing.assert_array_equal(mean_of(jnp.float32(5)), [5, 1])
    np.testing.assert_array_equal(mean_of(jnp.array([True, False, True])), [2, 3])


def test_masked_entries_count_nothing_even_if_they_are_nan():
    pair = mean_of(jnp.array([1.0, jnp.nan, 4.0]), where=jnp.array([True, False, True]))
    np.testing.assert_array_equal(pair, [5, 2])


def test_half_precision_is_summed_in_float32():
    # In bfloat16 a sum of ones sticks at 256.
    np.testing.assert_array_equal(mean_of(jnp.ones(1000, jnp.bfloat16)), [1000, 1000])


def test_pseudo_label_metrics_by_hand():
    pseudo = jnp.array([[0.5, 0.5, 0], [0, 1, 0], [0.25, 0.25, 0.5], [0, 0, 0]])
    labels = jnp.array([1, 1, 2, -1])
    metrics = compute(pseudo_label_metrics('before', pseudo, labels))
    # Entropies log 2, 0, 1.5 log 2, 0. A tie goes to the first class; an unknown label is left out.
    np.testing.assert_allclose(metrics['pseudo_label_entropy_before'], 2.5 * np.log(2) / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics['pseudo_label_accuracy_before'], 2 / 3, rtol=1e-6)


def test_without_labels_there_is_no_accuracy():
    pseudo = jnp.array([[0.5, 0.5]])
    assert set(compute(pseudo_label_metrics('after', pseudo, None))) == {'pseudo_label_entropy_after'}
    unknown = jnp.array([-1])
    assert set(compute(pseudo_label_metrics('after', pseudo, unknown))) == {'pseudo_label_entropy_after'}


def test_added_windows_give_the_mean_of_all_entries():
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    parts = [{'x': mean_of(part)} for part in np.split(values, [3, 50, 51])]
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    means = compute(total)
    np.testing.assert_allclose(means['x'], values.mean(), rtol=1e-5)
    assert type(means['x']) is float


def test_compute_works_on_host_sums_too():
    assert compute({'a': np.array([3.0, 2.0]), 'b': np.array([0.0, 0.0])}) == {'a': 1.5}


def test_nan_stays_visible():
    assert np.isnan(compute(jax.jit(lambda x: {'loss': mean_of(x)})(jnp.array([1.0, jnp.nan])))['loss'])


def test_all_finite():
    tree = {'a': jnp.ones(3), 'b': (jnp.zeros((), jnp.int32), jnp.ones(2, jnp.bfloat16))}
    assert all_finite(tree)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not all_finite(tree | {'a': jnp.array([0, bad, 0], jnp.float32)})
