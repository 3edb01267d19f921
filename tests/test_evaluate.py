import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.data.batches.augment import normalize
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.data.splits import Split
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.training.evaluate import make_evaluate, place_eval_data, stream_eval_data
from metasemi_jax.training.experiment_data import eval_images

MEAN, STD = 0.3, 0.2
MESH = make_mesh(jax.devices()[:1])


class Linear:
    """The smallest network of the interface that `make_evaluate` asks for."""

    @staticmethod
    def apply(variables, images, *, train):
        assert not train
        return images.reshape(len(images), -1) @ variables['params']


def by_numpy(weights, images, labels):
    logits = ((images.reshape(len(images), -1) / 255 - MEAN) / STD) @ weights.astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return 100 * np.mean(logits.argmax(axis=1) != labels), -np.mean(log_probs[np.arange(len(labels)), labels])


@pytest.fixture(scope='module')
def evaluate():
    return make_evaluate(Linear(), functools.partial(normalize, mean=(MEAN,), std=(STD,)), MESH)


@pytest.mark.parametrize('batch_size', [5, 10, 100])
@pytest.mark.parametrize('count', [1, 7, 10, 23])
def test_exact_for_any_number_of_images(evaluate, count, batch_size):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, count).astype(np.int32)
    weights = rng.normal(0, 0.1, (16, 3)).astype(np.float32)
    found = evaluate({'params': weights}, place_eval_data(images, labels, batch_size=batch_size, mesh=MESH))
    error, loss = by_numpy(weights, images, labels)
    np.testing.assert_allclose(found['error'], error, rtol=1e-12)
    np.testing.assert_allclose(found['loss'], loss, rtol=1e-5)
    assert type(found['error']) is type(found['loss']) is float


def test_percentages_are_the_nearest_floats(evaluate):
    # 100 · (34 / 500) would be 6.800000000000001.
    images, labels = np.zeros((500, 1, 1, 1), np.uint8), np.arange(500) < 34
    found = evaluate(
        {'params': np.zeros((1, 2), np.float32)}, place_eval_data(images, labels, batch_size=64, mesh=MESH)
    )
    assert found['error'] == 6.8


def test_padding_would_be_right_if_it_counted(evaluate):
    # A network that calls every image class 0, the padding's stand-in label; all labels are 1.
    images, labels = np.zeros((7, 1, 1, 1), np.uint8), np.ones(7, np.int32)
    weights = np.array([[-1.0, 1.0]], np.float32)
    found = evaluate({'params': weights}, place_eval_data(images, labels, batch_size=5, mesh=MESH))
    assert found['error'] == 100


def test_data_on_the_device():
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] + 1
    data = place_eval_data(images, np.arange(7), batch_size=5, mesh=MESH)
    first, last = data()
    assert first.images.shape == last.images.shape == (5, 1, 1, 1)
    assert first.images.dtype == jnp.uint8
    np.testing.assert_array_equal([first.labels, last.labels], [[0, 1, 2, 3, 4], [5, 6, -1, -1, -1]])
    np.testing.assert_array_equal(first.images.ravel(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(last.images.ravel(), [6, 7, 0, 0, 0])
    assert data() is data()


def test_one_compilation_serves_every_batch_and_evaluation():
    traces = []

    class Traced(Linear):
        @staticmethod
        def apply(variables, images, *, train):
            traces.append(images.shape)
            return Linear.apply(variables, images, train=train)

    evaluate = make_evaluate(Traced(), lambda images: images.astype(jnp.float32), MESH)
    data = place_eval_data(
        np.zeros((23, 2, 2, 1), np.uint8), np.zeros(23, np.int32), batch_size=10, mesh=MESH
    )
    for seed in range(2):
        evaluate({'params': jax.random.normal(jax.random.key(seed), (4, 3))}, data)
    assert traces == [(10, 2, 2, 1)]


@pytest.mark.parametrize('batch_size', [5, 10, 100])
@pytest.mark.parametrize('count', [1, 7, 10])
def test_streamed_batches_give_the_same_figures(evaluate, count, batch_size):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, count).astype(np.int32)
    variables = {'params': rng.normal(0, 0.1, (16, 3)).astype(np.float32)}
    streamed = stream_eval_data(images, labels, batch_size=batch_size, mesh=MESH)
    size = min(batch_size, count)
    shapes = {(batch.images.shape, batch.labels.shape, batch.labels.dtype) for batch in streamed()}
    assert shapes == {((size, 4, 4, 1), (size,), np.dtype(np.int32))}
    resident = place_eval_data(images, labels, batch_size=batch_size, mesh=MESH)
    for _ in range(2):  # it can be read again
        assert evaluate(variables, streamed) == evaluate(variables, resident)


def test_top5_error_of_many_classes(evaluate):
    """One pixel whose weights rank the classes 99, 98, ...: the labels 95 to 99 are among the first five."""
    images = np.full((10, 1, 1, 1), 255, np.uint8)
    labels = np.array([99, 98, 97, 96, 95, 94, 93, 0, 1, 2], np.int32)
    weights = np.arange(100, dtype=np.float32)[None] / 10
    found = evaluate({'params': weights}, place_eval_data(images, labels, batch_size=4, mesh=MESH))
    assert (found['error'], found['error_top5']) == (90, 50)
    few = evaluate({'params': weights[:, :99]}, place_eval_data(images, labels % 99, batch_size=4, mesh=MESH))
    assert 'error_top5' not in few


def test_errors_are_of_images_that_are_not_trained_on():
    dataset = load_dataset('digits')
    ids = dataset.train_ids
    found = eval_images(dataset, Split(labeled=ids[:10].tolist(), validation=ids[[12, 11]].tolist()))
    assert found.keys() == {'validation', 'test'}
    for images, labels, expected, expected_labels in (
        (*found['validation'], dataset.train_images[11:13], dataset.train_labels[11:13]),
        (*found['test'], dataset.test_images, dataset.test_labels),
    ):
        order = [np.flatnonzero((images == image).all(axis=(1, 2, 3)))[0] for image in expected]
        assert len(images) == len(expected)
        np.testing.assert_array_equal(labels[order], expected_labels)
