import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.batches import streamed_rows
from metasemi_jax.data.batches.resident import resident_pipeline
from metasemi_jax.data.batches.streamed_rows import HostCrop
from metasemi_jax.data.batches.streaming import streaming_pipeline
from metasemi_jax.data.batches.views import make_views, normalize_by
from metasemi_jax.data.images.files import ImageFiles
from metasemi_jax.data.images.random_resized_crop import CropRange
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sampling import Sampling
from metasemi_jax.data.sources.registry import Dataset
from metasemi_jax.errors import UserError

SIZE, COUNT = 8, 40
VIEWS = make_views(pad=1, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
CROP = HostCrop(CropRange((0.1, 1.0), (0.8, 1.25)), flip=True)
LABELED, UNLABELED, EVERYTHING = np.arange(10), np.arange(10, COUNT), np.arange(COUNT)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Image i is i in every pixel, but where a corner says which way round it is."""
    root = tmp_path_factory.mktemp('images')
    for i in range(COUNT):
        pixels = np.full((12, 16, 3), i, np.uint8)
        pixels[:2, :2] = 255
        Image.fromarray(pixels).save(root / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def dataset(folder):
    files = ImageFiles(folder, [f'{i}.png' for i in range(COUNT)])
    images = StoredImages(files, COUNT, SIZE, colour=True)
    labels = np.arange(COUNT, dtype=np.int32) % 5
    ids = np.array([f'{i:02d}' for i in range(COUNT)])
    return Dataset(images, labels, ids, None, None, ('a', 'b', 'c', 'd', 'e'))


def make(dataset, views=VIEWS, crop=None, num_workers=0, **options):
    sampling = Sampling(LABELED, UNLABELED, batch_size=8, seed=3)._replace(**options)
    return streaming_pipeline(dataset, sampling, views, crop=crop, num_workers=num_workers)


def sent(pipeline, count, start=0):
    batches = pipeline.host_batches(start)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def numbers(images):
    return np.median(images, axis=(1, 2, 3)).astype(int)


def flat(rows):
    """Labeled images, their labels, unlabeled images, their labels, ids, and images of a second view."""
    images, labels, ids = rows
    return (images[0], labels[0], images[1], labels[1], ids, *images[2:])


@pytest.mark.parametrize(
    ('unlabeled', 'ratio', 'second', 'pad_mode'),
    [
        (UNLABELED, 1, None, 'black'),
        (EVERYTHING, 2, None, 'reflect'),
        (UNLABELED, 1, 'weak', 'black'),
        (EVERYTHING, 3, 'weak', 'reflect'),
        (EVERYTHING, 3, 'strong', 'reflect'),
    ],
)
def test_the_batches_are_those_of_the_resident_pipeline(dataset, unlabeled, ratio, second, pad_mode):
    """Whatever a method asks of the data, bit for bit, by one process and by two."""
    views = make_views(pad=2, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3, pad_mode=pad_mode, second=second)
    sampling = Sampling(LABELED, unlabeled, batch_size=8, seed=3, unlabeled_ratio=ratio)
    in_memory = dataset._replace(train_images=np.asarray(dataset.train_images))
    resident = resident_pipeline(in_memory, sampling, views)
    streaming = streaming_pipeline(dataset, sampling, views)
    assert jax.tree.leaves(streaming.device_data) == []
    drawn = itertools.islice(resident.host_batches(2), 3)
    for step, (indices, rows) in enumerate(zip(drawn, sent(streaming, 3, start=2), strict=True)):
        assert rows[0][0].dtype == rows[0][1].dtype == np.uint8
        key = jax.random.key(step)
        batch = resident.to_batch(resident.device_data, indices, key)
        jax.tree.map(np.testing.assert_array_equal, batch, streaming.to_batch((), rows, key))
        assert batch.unlabeled_images.shape == (8 * ratio, SIZE, SIZE, 3)
        assert (batch.strong_images is None) == (second is None)
        if second:
            assert batch.strong_images.shape == batch.unlabeled_images.shape
            assert (batch.strong_images != batch.unlabeled_images).any()
        # What a method remembers of an image it finds again by this number.
        np.testing.assert_array_equal(unlabeled[batch.unlabeled_ids] % 5, batch.unlabeled_labels)
    for make_pipeline, data in ((resident_pipeline, in_memory), (streaming_pipeline, dataset)):
        whole = sent(make_pipeline(data, sampling, views), 2)
        shares = [
            sent(make_pipeline(data, sampling._replace(process_index=i, process_count=2), views), 2)
            for i in range(2)
        ]
        together = [
            jax.tree.map(lambda *parts: np.concatenate(parts), *step) for step in zip(*shares, strict=True)
        ]
        assert_equal(together, whole)


def test_a_second_view_from_disk_is_another_crop_of_the_same_images(dataset):
    views = make_views(pad=0, flip=False, mean=(0.5,) * 3, std=(0.25,) * 3, second='weak')
    pipeline = make(dataset, crop=CROP, views=views, unlabeled_ratio=2)
    for rows in sent(pipeline, 3):
        _, _, first, _, ids, second = flat(rows)
        np.testing.assert_array_equal(numbers(first), UNLABELED[ids])
        np.testing.assert_array_equal(numbers(second), UNLABELED[ids])
        assert (first != second).any(axis=(1, 2, 3)).mean() > 0.2
        batch = pipeline.to_batch((), rows, jax.random.key(0))
        np.testing.assert_array_equal(batch.strong_images, normalize_by(views.statistics, second))


@pytest.fixture(scope='module')
def reference(dataset):
    """Ten steps, decoded in this process, cropped at random."""
    return [flat(rows) for rows in sent(make(dataset, crop=CROP), 10)]


def test_every_image_of_a_pool_comes_once_an_epoch(reference):
    labeled = np.concatenate([numbers(rows[0]) for rows in reference])
    unlabeled = np.concatenate([numbers(rows[2]) for rows in reference])
    assert all(sorted(epoch) == LABELED.tolist() for epoch in labeled.reshape(8, 10))
    assert sorted(unlabeled[:30]) == sorted(unlabeled[30:60]) == UNLABELED.tolist()
    for rows in reference:
        np.testing.assert_array_equal(rows[1], numbers(rows[0]) % 5)
        np.testing.assert_array_equal(rows[3], numbers(rows[2]) % 5)


def test_no_two_draws_are_augmented_alike(reference):
    """The same image, in two epochs: other crops, one way round or the other."""
    rows = np.concatenate([rows[0] for rows in reference])
    looks = {numbers(image[None])[0]: set() for image in rows}
    for image in rows:
        looks[numbers(image[None])[0]].add(image.tobytes())
    assert sum(map(len, looks.values())) > 20
    corners = rows == 255
    assert corners[:, 0, 0].any()
    assert corners[:, 0, -1].any()


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing(dataset, reference, monkeypatch, workers):
    # Pieces of three rows: several elements a step, the last one shorter.
    monkeypatch.setattr(streamed_rows, 'ELEMENT_BYTES', 3 * SIZE * SIZE * 3)
    rows = sent(make(dataset, crop=CROP, num_workers=workers), 4, start=6)
    assert_equal([flat(of_step) for of_step in rows], reference[6:])


def test_the_shares_of_the_hosts_make_up_the_batch(dataset, reference):
    process_count = 4
    shares = [
        [
            flat(rows)
            for rows in sent(make(dataset, crop=CROP, process_index=i, process_count=process_count), 3, 2)
        ]
        for i in range(process_count)
    ]
    assert shares[0][0][0].shape == (8 // process_count, SIZE, SIZE, 3)
    together = [tuple(map(np.concatenate, zip(*step, strict=True))) for step in zip(*shares, strict=True)]
    assert_equal(together, reference[2:5])


def test_the_seed_decides(dataset, reference):
    (other,) = sent(make(dataset, crop=CROP, seed=4), 1)
    assert (numbers(flat(other)[2]) != numbers(reference[0][2])).any()


def test_no_unlabeled_images(dataset):
    none = np.zeros(0, np.int32)
    pipeline = streaming_pipeline(dataset, Sampling(LABELED, none, batch_size=4, seed=0), VIEWS)
    (rows,) = sent(pipeline, 1)
    assert [part.shape for part in flat(rows)] == [(4, SIZE, SIZE, 3), (4,), (0, SIZE, SIZE, 3), (0,), (0,)]
    batch = pipeline.to_batch((), rows, jax.random.key(0))
    assert batch.unlabeled_images.shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_is_gone_is_named(dataset, folder, workers):
    (folder / '5.png').rename(folder / 'away')
    try:
        with pytest.raises(UserError, match=r'^5.png cannot be read any more \(No such file'):
            sent(make(dataset, num_workers=workers), 2)
    finally:
        (folder / 'away').rename(folder / '5.png')
