import numpy as np
import pytest

from metasemi_jax.data.images.random_resized_crop import CropRange, draw_box

IMAGENET = CropRange((0.1, 1.0), (0.8, 1.25))


def boxes(width, height, crop=IMAGENET, count=2000):
    rng = np.random.default_rng(0)
    return np.array([draw_box(rng, width, height, crop) for _ in range(count)])


def test_boxes_keep_to_the_ranges_and_fill_them():
    left, top, right, bottom = boxes(500, 375).T
    assert min(left.min(), top.min()) == 0
    assert (right.max(), bottom.max()) == (500, 375)
    area = (right - left) * (bottom - top) / (500 * 375)
    aspect = (right - left) / (bottom - top)
    assert 0.098 < area.min() < 0.11
    # A box of 4:3, the image's own shape, is outside the range: none has the whole area.
    assert 0.9 < area.max() <= 375 * 1.25 * 375 / (500 * 375)
    assert 0.79 < aspect.min() < 0.81
    assert 1.24 < aspect.max() < 1.26
    # Uniform, where all boxes fit.
    assert abs((area < 0.3).sum() / (area < 0.5).sum() - 0.5) < 0.06
    # The logarithm is uniform: as many are wide as are tall.
    assert abs((aspect[area < 0.5] > 1).mean() - 0.5) < 0.06


@pytest.mark.parametrize(('width', 'height', 'box'), [(100, 10, (44, 0, 56, 10)), (10, 100, (0, 44, 10, 56))])
def test_where_none_fits_it_is_the_middle(width, height, box):
    """10 × 1.25 = 12.5, and 10 / 0.8 = 12.5: twelve pixels of a hundred."""
    found = boxes(width, height, CropRange((0.9, 1.0), (0.8, 1.25)), count=5)
    np.testing.assert_array_equal(found, [box] * 5)


def test_a_single_pixel():
    assert draw_box(np.random.default_rng(0), 1, 1, IMAGENET) == (0, 0, 1, 1)


def test_the_whole_image():
    np.testing.assert_array_equal(boxes(40, 40, CropRange((1, 1), (1, 1)), count=3), [(0, 0, 40, 40)] * 3)


def test_a_hundred_draws_before_the_middle():
    """Of ten it would nearly always be the middle."""
    crop = CropRange((0.1, 1.0), (6.0, 6.0))
    found = boxes(60, 600, crop, count=300)
    # The largest box of this shape is 60×10, 1/60 of the area: none fits, and it is the middle.
    np.testing.assert_array_equal(found, [(0, 295, 60, 305)] * 300)
    crop = CropRange((0.01, 1.0), (6.0, 6.0))
    # Areas up to 1/60 fit, 0.0067 of 0.99: half of the boxes come of a hundred draws, a fifteenth of ten.
    middle = (boxes(60, 600, crop, count=300) == (0, 295, 60, 305)).all(axis=1).mean()
    assert 0.35 < middle < 0.65
