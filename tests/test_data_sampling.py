import itertools

import numpy as np
import pytest

from metasemi_jax.data.sampling import sample_stream
from metasemi_jax.data.splits import VALIDATION_STREAM


def stream(pool, count, seed=(0, 0), start=0):
    return sample_stream(pool, seed, start=start, count=count)


def test_each_epoch_holds_each_example_once():
    entries = stream(13, 5 * 13).reshape(5, 13)
    for epoch in entries:
        assert sorted(epoch) == list(range(13))
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(entries))


@pytest.mark.parametrize(('pool', 'batch'), [(13, 4), (13, 13), (3, 8), (1, 5), (1000, 64)])
def test_any_step_gives_what_drawing_from_the_start_gives(pool, batch):
    # 13 by 4: batches run across the border of two epochs; 3 by 8 and 1 by 5: across several.
    whole = stream(pool, 20 * batch)
    for step in range(20):
        np.testing.assert_array_equal(
            stream(pool, batch, start=step * batch), whole[step * batch : (step + 1) * batch]
        )


def test_far_steps_cost_no_more():
    # Step 400,000 of CIFAR, drawn directly.
    entries = stream(46_000, 128, start=400_000 * 128)
    assert len(np.unique(entries)) == 128
    assert entries.min() >= 0
    assert entries.max() < 46_000


def test_batch_of_another_size_reads_the_same_stream():
    whole = stream(7, 30)
    np.testing.assert_array_equal(np.concatenate([stream(7, 10, start=s) for s in (0, 10, 20)]), whole)
    np.testing.assert_array_equal(np.concatenate([stream(7, 15, start=s) for s in (0, 15)]), whole)


def test_different_seeds_and_streams_differ():
    drawn = [stream(50, 50, seed).tolist() for seed in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(d) for d in drawn}) == 4
    # Independent: about 1 of 50 positions agrees by chance, never half of them.
    assert all(np.equal(a, b).sum() < 10 for a, b in itertools.combinations(drawn, 2))


def test_every_order_is_equally_likely():
    firsts = stream(4, 4 * 2000).reshape(2000, 4)
    counts = np.unique(firsts, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom exceeds 50 once in a thousand seeds; this seed is fixed.
    assert np.sum((counts - 2000 / 24) ** 2 / (2000 / 24)) < 50


def test_empty_pool_gives_an_empty_batch():
    assert stream(0, 8, start=16).shape == (0,)


def test_what_a_caller_does_to_a_batch_stays_with_it():
    first = stream(10, 10)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(stream(10, 10), kept)


def test_its_streams_begin_as_those_of_the_splits():
    """NumPy pads seeds with zeros; `sample_stream` says so, and why it does no harm."""
    seed = 11
    assert stream(40, 40, (seed, 0)).tolist() == np.random.default_rng(seed).permutation(40).tolist()
    held_out = np.random.default_rng([seed, VALIDATION_STREAM])
    assert stream(40, 40, (seed, 1)).tolist() == held_out.permutation(40).tolist()
    # The second epoch is nobody else's.
    assert stream(40, 40, (seed, 0), 40).tolist() != np.random.default_rng(seed).permutation(40).tolist()
