import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.data.batches.augment import PAD_MODES, normalize, random_crop, random_flip

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3)).astype(np.uint8)


def windows(image, pad):
    """All (2·pad + 1)² crops of the padded image, [n, H, W, C]."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
    padded[pad : pad + height, pad : pad + width] = image
    places = range(2 * pad + 1)
    return np.stack([padded[i : i + height, j : j + width] for i in places for j in places])


def test_reflection_mirrors_at_the_border_pixels():
    """A row 1 2 3, padded by 2: 3 2 | 1 2 3 | 2 1; five windows."""
    row = np.array([1, 2, 3], np.uint8)
    image = np.broadcast_to(row[None, None, :, None], (200, 3, 3, 1))
    crops = np.asarray(random_crop(image, jax.random.key(0), pad=2, mode='reflect'))
    rows = {tuple(crop[0, :, 0].tolist()) for crop in crops}
    assert rows == {(3, 2, 1), (2, 1, 2), (1, 2, 3), (2, 3, 2), (3, 2, 1)}
    assert (crops == crops[:, :1]).all()


@pytest.mark.parametrize('mode', PAD_MODES)
def test_every_crop_is_a_window_of_numpys_padding(mode):
    crops = np.asarray(random_crop(IMAGES, jax.random.key(0), pad=3, mode=mode))
    around = ((0, 0), (3, 3), (3, 3), (0, 0))
    padded = np.pad(IMAGES, around, mode={'black': 'constant', 'reflect': 'reflect'}[mode])
    for image, crop in zip(padded, crops, strict=True):
        found = [image[i : i + 6, j : j + 5] for i in range(7) for j in range(7)]
        assert any((window == crop).all() for window in found)


@pytest.mark.parametrize('pad', [1, 2])
def test_every_crop_is_a_window_of_the_padded_image(pad):
    crops = np.asarray(random_crop(IMAGES, jax.random.key(0), pad=pad))
    assert crops.dtype == np.uint8
    assert crops.shape == IMAGES.shape
    # Exactly one window each: no pixel of IMAGES is black.
    for image, crop in zip(IMAGES, crops, strict=True):
        assert (windows(image, pad) == crop).all((1, 2, 3)).sum() == 1


def test_every_offset_is_equally_likely():
    # One image many times over; the place of its brightest pixel tells the offset.
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 2] = 255
    crops = np.asarray(random_crop(jnp.repeat(image, 9000, axis=0), jax.random.key(1), pad=1))
    places, counts = np.unique(crops.reshape(9000, 25).argmax(axis=1), return_counts=True)
    assert places.tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(9000 * 1 / 9 * 8 / 9)


def test_no_padding_changes_nothing():
    np.testing.assert_array_equal(random_crop(IMAGES, jax.random.key(0), pad=0), IMAGES)


def test_crop_works_in_float64_mode(x64):
    assert random_crop(jnp.asarray(IMAGES), jax.random.key(0), pad=1).shape == IMAGES.shape


def test_flip_mirrors_left_to_right_half_of_the_images():
    images = np.broadcast_to(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[None, :, :, None], (4000, 2, 3, 1))
    flipped = np.asarray(random_flip(images, jax.random.key(0)))
    mirrored = (flipped == [[[3], [2], [1]], [[6], [5], [4]]]).all((1, 2, 3))
    unchanged = (flipped == images).all((1, 2, 3))
    assert np.all(mirrored ^ unchanged)
    assert abs(mirrored.sum() - 2000) < 5 * np.sqrt(1000)
    assert flipped.dtype == np.uint8


def test_normalize_by_hand():
    # Channel 1: (0 - ½)/¼ = -2, (1 - ½)/¼ = 2. Channel 2: (x - 0.2)/0.1 = -2, 8, and 51/255 = 0.2 gives 0.
    pixels = np.array([[[[0, 0], [255, 255], [255, 51]]]], np.uint8)
    normalized = normalize(pixels, mean=(0.5, 0.2), std=(0.25, 0.1))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, [[[[-2, -2], [2, 8], [2, 0]]]], rtol=1e-6, atol=1e-6)


def test_normalize_every_level_against_float64():
    levels = np.arange(256, dtype=np.uint8)[:, None]
    mean, std = 0.4376821, 0.19803012
    expected = (levels / 255 - mean) / std
    np.testing.assert_allclose(normalize(levels, mean=(mean,), std=(std,)), expected, rtol=0, atol=1e-6)
