import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.checkpoint import (
    best_step,
    open_checkpoints,
    restore_latest,
    restore_step,
    save_checkpoint,
)
from metasemi_jax.errors import UserError
from metasemi_jax.optimizer import sgd_momentum
from metasemi_jax.train_step import TrainState

TX = sgd_momentum(momentum=0.9, weight_decay=1e-4)


def state_of(seed):
    rng = np.random.default_rng(seed)
    variables = {
        'params': {
            'conv': {'kernel': jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.float32)},
            'head': jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        },
        'batch_stats': {'mean': jnp.array([np.nan, -0.0, 1e-45], jnp.float32)},
    }
    state = TrainState.create(variables, TX, with_ema=True)
    return state.replace(step=jnp.int32(seed))


def open_in(folder):
    return contextlib.closing(open_checkpoints(folder / 'checkpoints'))


def save(manager, step, error, record=None):
    save_checkpoint(manager, state_of(step), record or {'step': step}, step=step, error=error)


def assert_bitwise_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_round_trip_is_bitwise(tmp_path):
    record = {'history': [[100, 12.5, None]], 'seconds': 3.25, 'split_sha256': 'ab'}
    with open_in(tmp_path) as manager:
        save(manager, 7, 12.5, record)
    with open_in(tmp_path) as manager:
        restored = restore_latest(manager, state_of(1))
    assert_bitwise_equal(restored.state, state_of(7))
    assert restored.record == record


def test_nothing_to_restore(tmp_path):
    with open_in(tmp_path) as manager:
        assert restore_latest(manager, state_of(1)) is None


def test_the_latest_is_restored(tmp_path):
    with open_in(tmp_path) as manager:
        for step, error in ((1, 5.0), (2, 9.0), (3, None)):
            save(manager, step, error)
        manager.wait_until_finished()
        assert restore_latest(manager, state_of(1)).record == {'step': 3}


@pytest.mark.parametrize(
    ('errors', 'kept'),
    [
        ([50.0, 40.0, 30.0, 20.0], [3, 4]),
        ([50.0, 10.0, 30.0, 40.0, 20.0], [2, 4, 5]),
        # Saves on SIGTERM have no error: they neither count as best nor push the best out.
        ([50.0, 10.0, None, 30.0, None, None], [2, 5, 6]),
        ([None, None, None], [2, 3]),
    ],
)
def test_the_latest_two_and_the_best_are_kept(tmp_path, errors, kept):
    with open_in(tmp_path) as manager:
        for step, error in enumerate(errors, start=1):
            save(manager, step, error)
    with open_in(tmp_path) as manager:
        assert sorted(manager.all_steps()) == kept


def test_the_best_is_remembered_by_the_next_process(tmp_path):
    for step, error in ((1, 10.0), (2, 30.0), (3, 20.0), (4, None)):
        with open_in(tmp_path) as manager:
            save(manager, step, error)
    with open_in(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [1, 3, 4]


@pytest.mark.parametrize(
    ('errors', 'best'), [([9.0, 3.0, 5.0, 4.0], 2), ([5.0, 5.0, 6.0], 2), ([None, None], None), ([], None)]
)
def test_the_best_step_is_the_lowest_error_the_latest_of_equals(tmp_path, errors, best):
    with open_in(tmp_path) as manager:
        for step, error in enumerate(errors, start=1):
            save(manager, step, error)
    with contextlib.closing(open_checkpoints(tmp_path / 'checkpoints', read_only=True)) as manager:
        assert best_step(manager) == best
        if best:
            assert_bitwise_equal(restore_step(manager, state_of(0), best).state, state_of(best))


def test_numpy_and_jax_scalars_as_metric_lose_nothing(tmp_path):
    with open_in(tmp_path) as manager:
        save(manager, 1, np.float32(3))
        save(manager, 2, jnp.float32(4))
    with open_in(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [1, 2]


def test_saving_a_step_twice_writes_it_once(tmp_path):
    with open_in(tmp_path) as manager:
        save(manager, 1, 5.0, {'first': True})
        save(manager, 1, None, {'first': False})
        manager.wait_until_finished()
        assert restore_latest(manager, state_of(1)).record == {'first': True}


def test_the_saved_buffers_may_be_donated_at_once(tmp_path):
    state = state_of(3)
    with open_in(tmp_path) as manager:
        save_checkpoint(manager, state, {}, step=3, error=None)
        jax.jit(lambda s: jax.tree.map(lambda leaf: leaf * 0, s), donate_argnums=0)(state)
    with open_in(tmp_path) as manager:
        assert_bitwise_equal(restore_latest(manager, state_of(1)).state, state_of(3))


def test_a_damaged_latest_is_named_in_one_line(tmp_path):
    with open_in(tmp_path) as manager:
        save(manager, 1, 5.0)
        save(manager, 2, 4.0)
    latest = tmp_path / 'checkpoints' / '2'
    for path in (latest / 'state').rglob('*'):
        if path.is_file():
            path.write_bytes(b'')
    with open_in(tmp_path) as manager:
        with pytest.raises(UserError, match='cannot be read') as caught:
            restore_latest(manager, state_of(1))
        assert str(latest) in str(caught.value)
        assert '\n' not in str(caught.value)
    # What the message advises works.
    latest.rename(tmp_path / 'damaged')
    with open_in(tmp_path) as manager:
        assert restore_latest(manager, state_of(2)).record == {'step': 1}


def test_a_state_of_another_shape_is_refused(tmp_path):
    with open_in(tmp_path) as manager:
        save(manager, 1, 5.0)
        manager.wait_until_finished()
        other = state_of(1).replace(ema={})
        with pytest.raises(UserError, match='cannot be read'):
            restore_latest(manager, other)
