import numpy as np
import pytest
from sklearn.datasets import load_digits

from metasemi_jax.data.sources.registry import SOURCES, load_dataset
from metasemi_jax.errors import UserError


@pytest.fixture(scope='module')
def digits():
    return load_dataset('digits')


@pytest.fixture(scope='module')
def digits_dev():
    return load_dataset('digits_dev')


def test_sizes(digits, digits_dev):
    assert (len(digits.train_images), len(digits.test_images)) == (1297, 500)
    assert (len(digits_dev.train_images), len(digits_dev.test_images)) == (897, 400)


@pytest.mark.parametrize('name', SOURCES)
def test_form(name):
    data = load_dataset(name)
    assert data.image_shape == (8, 8, 1)
    assert data.num_classes == 10
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        assert images.shape == (len(labels), 8, 8, 1)
        assert set(labels) == set(range(10))
    assert len(data.train_ids) == len(data.train_images) == len(set(data.train_ids))


def test_images_and_labels_are_scikit_learns(digits):
    data = load_digits()
    # An id is the position in scikit-learn's file; its grey levels 0..16 come back from 0..255.
    there = np.array([int(name) for name in digits.train_ids])
    np.testing.assert_array_equal(np.round(digits.train_images[..., 0] / 255 * 16), data.images[there])
    np.testing.assert_array_equal(digits.train_labels, data.target[there])
    assert digits.train_images.max() == 255
    left = np.setdiff1d(np.arange(1797), there)
    np.testing.assert_array_equal(np.round(digits.test_images[..., 0] / 255 * 16), data.images[left])
    np.testing.assert_array_equal(digits.test_labels, data.target[left])


def rows(images):
    return {image.tobytes() for image in images}


def test_train_and_test_are_disjoint(digits):
    # No two scans are equal, so that images can stand for themselves.
    assert len(rows(load_digits().images)) == 1797
    assert not rows(digits.train_images) & rows(digits.test_images)


def test_settings_are_chosen_without_the_test_images(digits, digits_dev):
    assert not rows(digits.test_images) & (rows(digits_dev.train_images) | rows(digits_dev.test_images))
    assert not rows(digits_dev.train_images) & rows(digits_dev.test_images)
    assert rows(digits_dev.train_images) | rows(digits_dev.test_images) == rows(digits.train_images)
    assert set(digits_dev.train_ids) < set(digits.train_ids)


def test_always_the_same(digits):
    again = load_dataset('digits')
    np.testing.assert_array_equal(again.train_ids, digits.train_ids)
    np.testing.assert_array_equal(again.test_images, digits.test_images)


def test_unknown_name():
    with pytest.raises(UserError, match=r"'digit': .* choose one of .*digits, digits_dev"):
        load_dataset('digit')
