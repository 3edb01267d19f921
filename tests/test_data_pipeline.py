import itertools

import jax
import numpy as np
import pytest

from metasemi_jax.data.batches import resident as pipeline_module
from metasemi_jax.data.batches.resident import channel_statistics, resident_pipeline
from metasemi_jax.data.batches.views import make_views
from metasemi_jax.data.sampling import Sampling
from metasemi_jax.data.sources.registry import Dataset, load_dataset
from metasemi_jax.data.splits import class_balanced_split, split_positions

PIXELS = {'mean': (0.0,), 'std': (1 / 255,)}  # gives the pixels back
RAW = make_views(pad=0, flip=False, **PIXELS)
VARIED = make_views(pad=1, flip=True, **PIXELS)


def numbered_dataset(labels=None):
    """40 images of 4×4; image i is i + 1 in every pixel, its label i % 5."""
    images = np.broadcast_to(np.arange(1, 41, dtype=np.uint8)[:, None, None, None], (40, 4, 4, 1))
    labels = np.arange(40, dtype=np.int32) % 5 if labels is None else labels
    ids = np.array([f'{i:02d}' for i in range(40)])
    return Dataset(images, labels, ids, images[:2], labels[:2], ('a', 'b', 'c', 'd', 'e'))


LABELED, UNLABELED = np.arange(0, 10), np.arange(10, 40)


def make(dataset=None, unlabeled=UNLABELED, views=RAW, seed=0):
    pipeline = resident_pipeline(
        dataset or numbered_dataset(), Sampling(LABELED, unlabeled, batch_size=8, seed=seed), views
    )
    return pipeline, jax.jit(pipeline.to_batch)


def batches(pipeline, to_batch, count, start=0):
    host_batches = pipeline.host_batches(start)
    for step in range(start, start + count):
        key = jax.random.fold_in(jax.random.key(0), step)
        yield jax.device_get(to_batch(pipeline.device_data, next(host_batches), key))


def numbers(images):
    """Which image each is: black borders aside, all its pixels are equal."""
    return np.round(images.max(axis=(1, 2, 3))).astype(int) - 1


@pytest.mark.parametrize('views', [RAW, VARIED])
def test_a_batch_holds_its_images_labels(views):
    for batch in batches(*make(views=views), count=6):
        labeled, unlabeled = numbers(batch.labeled_images), numbers(batch.unlabeled_images)
        assert set(labeled) <= set(LABELED)
        assert set(unlabeled) <= set(UNLABELED)
        np.testing.assert_array_equal(batch.labels, labeled % 5)
        np.testing.assert_array_equal(batch.unlabeled_labels, unlabeled % 5)
        assert batch.labeled_images.dtype == np.float32
        assert batch.labeled_images.shape == batch.unlabeled_images.shape == (8, 4, 4, 1)


def test_every_image_of_a_pool_comes_once_an_epoch():
    drawn = list(batches(*make(), count=15))
    labeled = np.concatenate([numbers(b.labeled_images) for b in drawn]).reshape(12, 10)
    unlabeled = np.concatenate([numbers(b.unlabeled_images) for b in drawn]).reshape(4, 30)
    assert all(sorted(epoch) == LABELED.tolist() for epoch in labeled)
    assert all(sorted(epoch) == UNLABELED.tolist() for epoch in unlabeled)


def test_any_start_gives_the_same_batches():
    pipeline, to_batch = make(views=VARIED)
    for a, b in zip(
        batches(pipeline, to_batch, 3, start=7),
        itertools.islice(batches(pipeline, to_batch, 10), 7, None),
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_labeled_and_unlabeled_images_are_drawn_apart():
    # Also where both pools are the same images: a labeled image is not always paired with itself.
    labeled, unlabeled = next(make(unlabeled=LABELED)[0].host_batches(0))
    assert (labeled != unlabeled).any()


def test_the_seed_decides_the_order():
    first, same, other = (make(seed=seed)[0].host_batches(0) for seed in (0, 0, 1))
    drawn = [[np.concatenate(next(s)).tolist() for _ in range(3)] for s in (first, same, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_garbage_for_the_unlabeled_labels_changes_nothing_else():
    dataset = numbered_dataset()
    garbage = dataset.train_labels.copy()
    garbage[UNLABELED] = -1
    views = VARIED
    for true, false in zip(
        batches(*make(dataset, views=views), count=4),
        batches(*make(numbered_dataset(garbage), views=views), count=4),
        strict=True,
    ):
        np.testing.assert_array_equal(false.unlabeled_labels, -1)
        jax.tree.map(
            np.testing.assert_array_equal,
            true._replace(unlabeled_labels=0),
            false._replace(unlabeled_labels=0),
        )


def test_the_two_batches_are_augmented_independently():
    everything = np.arange(40)
    dataset = numbered_dataset()
    views = make_views(pad=1, flip=False, **PIXELS)
    pipeline = resident_pipeline(dataset, Sampling(everything, everything, batch_size=40, seed=0), views)
    same = np.arange(40), np.arange(40)
    batch = pipeline.to_batch(pipeline.device_data, same, jax.random.key(0))
    alike = (np.asarray(batch.labeled_images) == np.asarray(batch.unlabeled_images)).all((1, 2, 3))
    # Nine offsets: one pair of nine agrees by chance.
    assert 0 < alike.sum() < 15


def test_no_unlabeled_images():
    for batch in batches(*make(unlabeled=np.zeros(0, np.int32)), count=2):
        assert batch.labeled_images.shape == (8, 4, 4, 1)
        assert batch.unlabeled_images.shape == (0, 4, 4, 1)
        assert batch.unlabeled_labels.shape == (0,)


def test_digits_pools_are_disjoint_and_make_up_the_training_split():
    data = load_dataset('digits')
    ids = class_balanced_split(data.train_labels, data.train_ids, 50, num_classes=10, seed=3)
    labeled, unlabeled = split_positions(data.train_ids, ids)
    assert len(labeled) == 50
    assert np.bincount(data.train_labels[labeled]).tolist() == [5] * 10
    np.testing.assert_array_equal(np.sort(np.concatenate([labeled, unlabeled])), np.arange(1297))


def test_the_host_sends_indices_alone():
    pipeline, _ = make()
    labeled, unlabeled = next(pipeline.host_batches(0))
    assert labeled.shape == unlabeled.shape == (8,)
    assert pipeline.device_data[0].dtype == np.uint8


def test_channel_statistics_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3)).astype(np.uint8)
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)
    assert all(type(value) is float for value in mean + std)


def test_channel_statistics_of_some_images_a_little_at_a_time(monkeypatch):
    monkeypatch.setattr(pipeline_module, 'COUNTED_BYTES', 300)
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3)).astype(np.uint8)
    some = np.array([3, 40, 7, 8, 9, 11, 49])
    np.testing.assert_allclose(channel_statistics(images, some), channel_statistics(images[some]), rtol=1e-12)
    mean, _ = channel_statistics(images, some)
    np.testing.assert_allclose(mean, images[some].mean(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_a_constant_channel_has_a_deviation_of_one():
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 51, np.uint8))
    np.testing.assert_allclose(mean, [0.2], rtol=1e-12)
    assert std == (1.0,)
