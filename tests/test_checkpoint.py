import contextlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.optimizer import make_optimizer
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.damaged import set_aside
from metasemi_jax.training.orbax_workarounds import steps_without_listing
from metasemi_jax.training.restore import best_step, restore_newest, restore_step

TX = make_optimizer('sgd', momentum=0.9, weight_decay=1e-4)


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
    return closing_checkpoints(open_checkpoints(folder / 'checkpoints'))


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
        restored = restore_newest(manager, state_of(1))
    assert_bitwise_equal(restored.state, state_of(7))
    assert restored.record == record


def test_nothing_to_restore(tmp_path):
    with open_in(tmp_path) as manager:
        assert restore_newest(manager, state_of(1)) is None


def test_the_latest_is_restored(tmp_path):
    with open_in(tmp_path) as manager:
        for step, error in ((1, 5.0), (2, 9.0), (3, None)):
            save(manager, step, error)
        manager.wait_until_finished()
        assert restore_newest(manager, state_of(1)).record == {'step': 3}


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
        assert restore_newest(manager, state_of(1)).record == {'first': True}


def test_the_saved_buffers_may_be_donated_at_once(tmp_path):
    state = state_of(3)
    with open_in(tmp_path) as manager:
        save_checkpoint(manager, state, {}, step=3, error=None)
        jax.jit(lambda s: jax.tree.map(lambda leaf: leaf * 0, s), donate_argnums=0)(state)
    with open_in(tmp_path) as manager:
        assert_bitwise_equal(restore_newest(manager, state_of(1)).state, state_of(3))


@pytest.fixture(scope='module')
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    with open_in(folder) as manager:
        save(manager, 1, 5.0)
        save(manager, 2, 4.0)
    return folder


def damaged_copies(folder, target):
    """One for each file of the newest checkpoint and kind of damage, with what was damaged."""
    for file in sorted(path for path in (folder / 'checkpoints' / '2').rglob('*') if path.is_file()):
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = bytearray(whole)
        flipped[middle] ^= 4
        for kind, damaged in {'cut': whole[:middle], 'flipped': flipped, 'gone': None}.items():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
            copy = target / file.relative_to(folder)
            copy.unlink() if damaged is None else copy.write_bytes(damaged)
            yield f'{file.relative_to(folder)} {kind}'


def test_whatever_is_damaged_the_newest_whole_checkpoint_is_found(two_checkpoints, tmp_path):
    skipped = set()
    for damage in damaged_copies(two_checkpoints, tmp_path / 'copy'):
        checkpoints = tmp_path / 'copy' / 'checkpoints'
        for step in steps_without_listing(checkpoints):
            set_aside(checkpoints, step)
        with open_in(tmp_path / 'copy') as manager:
            restored = restore_newest(manager, state_of(1))
        # Either the damage does no harm, or it is known.
        step = restored.record['step']
        assert_bitwise_equal(restored.state, state_of(step))
        if restored.damaged:
            assert list(restored.damaged) == [2]
            assert '\n' not in restored.damaged[2]
            skipped.add(damage.split('/')[2].split()[0])
        if step == 1:
            skipped.add(damage.split('/')[2])
    assert {'state', 'record', 'metrics'} <= skipped


def test_a_flipped_bit_that_decodes_is_noticed(two_checkpoints, tmp_path, monkeypatch):
    """As where the bytes of an array are stored uncompressed: another number, and no complaint from below."""
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    with open_in(tmp_path) as manager:
        restore = manager.restore

        def flipping(step, args):
            restored = restore(step, args=args)
            if step == 2:
                stats = restored['state']['batch_stats']
                stats['mean'] = stats['mean'].at[2].set(3e-45)
            return restored

        monkeypatch.setattr(manager, 'restore', flipping)
        restored = restore_newest(manager, state_of(1))
    assert restored.record == {'step': 1}
    assert restored.damaged == {2: 'its contents are not what was saved'}


def test_what_is_set_aside_is_kept(two_checkpoints, tmp_path):
    for _ in range(2):
        shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
        moved = set_aside(tmp_path / 'checkpoints', 2)
        assert (moved / 'state').is_dir()
    assert sorted(path.name for path in moved.parent.iterdir()) == ['2.0', '2.1']
    with open_in(tmp_path) as manager:
        assert list(manager.all_steps()) == [1]


def test_no_checkpoint_can_be_read(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob('checkpoints/*/state/manifest.ocdbt'):
        path.write_bytes(b'')
    with open_in(tmp_path) as manager, pytest.raises(UserError, match='no checkpoint') as caught:
        restore_newest(manager, state_of(1))
    message = str(caught.value)
    assert re.search(r'2 \(.+\), 1 \(.+\); put back', message)
    assert len(message.splitlines()) == 1


def test_a_state_of_another_shape_is_refused(tmp_path):
    with open_in(tmp_path) as manager:
        save(manager, 1, 5.0)
        manager.wait_until_finished()
        other = state_of(1).replace(ema={})
        with pytest.raises(UserError, match='can be read'):
            restore_newest(manager, other)
