import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compilations import compilations
from metasemi_jax.batch import Batch
from metasemi_jax.data.batches.augment import random_crop
from metasemi_jax.distributed.sharding import make_mesh, place, replicated
from metasemi_jax.methods import create_method
from metasemi_jax.metrics import compute, mean_of
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.optimizer import make_optimizer, warmup_piecewise_schedule
from metasemi_jax.train_step import TrainState, make_train_step
from metasemi_jax.training.multi_step import call_ends, make_run_steps, place_host_batches

MESH = make_mesh(jax.devices()[:1])


@pytest.mark.parametrize(
    ('start', 'total', 'max_steps', 'cadences', 'ends'),
    [
        (0, 5, 1, (), [1, 2, 3, 4, 5]),
        (0, 10, 3, (4,), [1, 4, 7, 8, 10]),
        (0, 10, 100, (4, 6), [1, 4, 6, 8, 10]),
        (5, 12, 3, (4,), [6, 8, 11, 12]),
        (4, 8, 3, (4,), [5, 8]),
        (0, 7, 100, (), [1, 7]),
        (7, 7, 3, (2,), []),
        (0, 4, 3, (1,), [1, 2, 3, 4]),
    ],
)
def test_call_ends_by_hand(start, total, max_steps, cadences, ends):
    assert list(call_ends(start, total, max_steps, cadences)) == ends


def test_stacked_batches_are_filled_up():
    batches = iter([(np.array([i, i]), np.array([-i])) for i in range(5)])
    (first, second), count = place_host_batches(batches, 2, 3, MESH)
    np.testing.assert_array_equal(first, [[0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(second, [[0], [-1], [-1]])
    assert (int(count), count.dtype) == (2, np.int32)
    # The next call goes on where this one stopped.
    np.testing.assert_array_equal(place_host_batches(batches, 1, 1, MESH)[0][0], [[2, 2]])


def test_nothing_crosses_to_the_device_unasked():
    """What the loop's transfer guard refuses: NumPy arrays and Python numbers as arguments."""

    def step(state, batch, key):
        return state.replace(step=state.step + 1), {'x': mean_of(batch)}

    everywhere = replicated(MESH)
    run_steps = make_run_steps(step, lambda data, x, key: x, max_steps=2, mesh=MESH)
    state = place(TrainState(np.int32(0), {}, {}, (), {}), everywhere)
    key = jax.device_put(jax.random.key(0), everywhere)
    batches = iter([np.ones(1, np.float32)] * 8)
    with jax.transfer_guard('disallow'):
        for _ in range(2):
            state, sums = run_steps(state, (), *place_host_batches(batches, 2, 2, MESH), key)
        with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
            run_steps(state, (), np.ones((2, 1), np.float32), 2, key)
    assert compute(sums) == {'x': 1}


class Job:
    """Real steps of a small network, labeled only: crops and dropout are random enough.

    In float64, where the order of additions is not seen.
    """

    def __init__(self):
        rng = np.random.default_rng(0)
        self.traces = []
        model = create_model('conv_small', 3, width=2, dtype=jnp.float64)
        tx = make_optimizer('sgd', momentum=0.9, weight_decay=1e-4)
        train_step = make_train_step(
            create_method('supervised', model),
            tx,
            lr_schedule=warmup_piecewise_schedule(0.1, warmup_steps=4, milestones=()),
            ema_decay=0.9,
        )

        def counted_step(state, batch, key):
            self.traces.append(batch)
            return train_step(state, batch, key)

        def to_batch(device_data, index, key):
            images, labels = device_data
            cropped = random_crop(images[index], key, pad=1)
            return Batch(cropped, labels[index], images[index + 1], labels[index + 1])

        self.start = jax.device_get(
            TrainState.create(init_variables(model, jax.random.key(0), (4, 4, 1)), tx, with_ema=True)
        )
        self.data = rng.normal(size=(20, 4, 4, 1)), rng.integers(0, 3, 20).astype(np.int32)
        self.indices = rng.integers(0, 19, (7, 4))
        self.single = make_run_steps(counted_step, to_batch, max_steps=1, mesh=MESH)
        self.many = make_run_steps(counted_step, to_batch, max_steps=3, mesh=MESH)

    def call(self, run_steps, state, indices, count):
        state = place(state, replicated(MESH))
        return jax.device_get(run_steps(state, self.data, indices, np.int32(count), jax.random.key(5)))

    def one_by_one(self, count):
        state, sums = self.start, []
        for i in range(count):
            state, step_sums = self.call(self.single, state, self.indices[i : i + 1], 1)
            sums.append(step_sums)
        return state, jax.tree.map(lambda *pairs: np.sum(pairs, axis=0), *sums)


@pytest.fixture(scope='module')
def job():
    # Flax's BatchNorm cannot do float64 under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        yield Job()


def assert_close(first, second, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), first, second)


def test_three_steps_in_one_call_are_three_calls(job):
    state, sums = job.call(job.many, job.start, job.indices[:3], 3)
    expected, expected_sums = job.one_by_one(3)
    assert int(state.step) == 3
    assert_close(state, expected)
    # Metrics are float32.
    assert_close(sums, expected_sums, rtol=1e-5)
    assert sums['loss'][1] == 3


def test_calls_of_any_length_make_the_same_run(job):
    state = job.start
    for first, count in ((0, 3), (3, 1), (4, 2), (6, 1)):
        filled = np.resize(job.indices[first : first + count], (3, 4))
        state, _ = job.call(job.many, state, filled, count)
    assert_close(state, job.one_by_one(7)[0])


def test_what_lies_beyond_the_count_is_not_used(job):
    results = []
    for rest in (job.indices[1:3], np.full((2, 4), 10**6)):
        indices = np.concatenate([job.indices[:1], rest])
        results.append(job.call(job.many, job.start, indices, 1))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert_close(results[0][0], job.one_by_one(1)[0])


def test_each_step_has_numbers_of_its_own(job):
    # The same batch twice: crops and dropout differ by the step alone.
    indices = np.stack([job.indices[0]] * 2)
    state, first = job.call(job.single, job.start, indices[:1], 1)
    again = job.call(job.single, job.start, indices[:1], 1)[1]
    later = job.call(job.single, job.start.replace(step=np.int32(1)), indices[:1], 1)[1]
    np.testing.assert_array_equal(first['loss'], again['loss'])
    assert later['loss'][0] != first['loss'][0]
    assert int(state.step) == 1


def test_one_compilation_serves_every_count_and_step(job):
    job.one_by_one(1)
    job.call(job.many, job.start, job.indices[:3], 2)
    traced = len(job.traces)
    with compilations() as compiled:
        job.one_by_one(3)
        for count in (1, 2, 3):
            job.call(job.many, job.start, job.indices[:3], count)
    assert len(job.traces) == traced
    assert compiled == []
    # 0 where the cache that all functions of the process share has dropped it.
    assert max(job.single._cache_size(), job.many._cache_size()) <= 1


def test_sums_start_from_zero_each_call():
    def step(state, batch, key):
        return state.replace(step=state.step + 1), {'x': mean_of(batch)}

    run_steps = make_run_steps(step, lambda data, x, key: x, max_steps=4, mesh=MESH)
    state = place(TrainState(np.int32(0), {}, {}, (), {}), replicated(MESH))
    for values, mean in (([1.0, 2.0, 6.0, 99.0], 3.0), ([7.0, 8.0, 9.0, 99.0], 8.0)):
        state, sums = run_steps(
            state, (), np.array(values, np.float32)[:, None], np.int32(3), jax.random.key(0)
        )
        assert compute(sums) == {'x': mean}
    assert int(state.step) == 6


def test_batch_and_step_have_keys_of_their_own():
    def step(state, drawn, key):
        metrics = {'batch': mean_of(drawn), 'step': mean_of(jax.random.uniform(key, (1,)))}
        return state.replace(step=state.step + 1), metrics

    def draw(data, x, key):
        return jax.random.uniform(key, (1,))

    run_steps = make_run_steps(step, draw, max_steps=1, mesh=MESH)
    state, drawn = place(TrainState(np.int32(0), {}, {}, (), {}), replicated(MESH)), []
    for _ in range(2):
        state, sums = run_steps(state, (), np.zeros((1, 1), np.float32), np.int32(1), jax.random.key(0))
        drawn += compute(sums).values()
    assert len({*drawn}) == 4
