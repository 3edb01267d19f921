import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from metasemi_jax.data.batches.affine import (
    affine_view,
    bilinear,
    bilinear_by_gather,
    bilinear_by_products,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 9, 7, 3)).astype(np.uint8)


@pytest.mark.parametrize(('pad_mode', 'scipys'), [('black', 'grid-constant'), ('reflect', 'mirror')])
def test_bilinear_is_scipys(pad_mode, scipys):
    image = IMAGES[0].astype(float)
    rows, columns = np.random.default_rng(1).uniform(-5, 14, (2, 40, 3))
    ours = bilinear(*(jnp.asarray(a, float) for a in (image, rows, columns)), pad_mode=pad_mode)
    for channel in range(3):
        theirs = map_coordinates(image[..., channel], [rows, columns], order=1, mode=scipys)
        np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-3)


def test_the_form_for_tpus_is_bilinear_too():
    image = jnp.asarray(IMAGES[0], float)
    rows, columns = jnp.asarray(np.random.default_rng(1).uniform(-5, 14, (2, 40, 3)), float)
    columns = columns.at[:5].set(jnp.arange(-2.0, 3.0)[:, None])
    gathered = bilinear_by_gather(image, rows, columns)
    np.testing.assert_allclose(bilinear_by_products(image, rows, columns), gathered, atol=1e-3)


@pytest.mark.parametrize('pad_mode', ['black', 'reflect'])
def test_views_are_images_and_differ(pad_mode):
    same = np.repeat(IMAGES[:1], 50, axis=0)
    views = np.asarray(affine_view(same, jax.random.key(0), pad_mode=pad_mode))
    assert views.dtype == np.uint8
    assert views.shape == same.shape
    assert len(np.unique(views.reshape(50, -1), axis=0)) == 50
    again = affine_view(same, jax.random.key(0), pad_mode=pad_mode)
    np.testing.assert_array_equal(views, again)


def test_a_grey_image_stays_grey_and_nothing_is_mirrored():
    """The centre of mass of a bright right half stays on the right."""
    images = np.zeros((200, 16, 16, 3), np.uint8)
    images[:, :, 8:] = 128
    views = np.asarray(affine_view(images, jax.random.key(2))).astype(float)
    np.testing.assert_array_equal(views[..., 0], views[..., 2])
    halves = views[..., 0].sum(axis=1)
    assert (halves[:, 8:].sum(axis=1) > halves[:, :8].sum(axis=1)).mean() > 0.97


def test_tone_stays_within_its_bounds():
    flat = np.full((300, 8, 8, 1), 100, np.uint8)
    middles = np.asarray(affine_view(flat, jax.random.key(3), pad_mode='reflect'))
    # Contrast leaves a flat image, a hole has its mean: brightness alone is seen.
    assert middles.min() >= 59
    assert middles.max() <= 141
    assert middles.std() > 10
