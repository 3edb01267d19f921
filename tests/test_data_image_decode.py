import io

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.images.decode import check_image, decode_crop, decode_square
from metasemi_jax.data.images.random_resized_crop import CropRange, draw_box

ALL = CropRange((1.0, 1.0), (1.0, 1.0))


def gradient(width, height):
    """Red grows to the right, green downwards: a pixel says where it comes from."""
    rows, columns = np.mgrid[:height, :width]
    red, green = columns * 255 / (width - 1), rows * 255 / (height - 1)
    return np.stack([red, green, 0 * red], axis=-1).astype(np.uint8)


def encoded(pixels, file_format='PNG', **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return io.BytesIO(file.getvalue())


def test_the_middle_of_a_resized_image():
    """Shorter side 150 -> 64, then the middle 56: as resizing first and cutting after, but in one go."""
    pixels = gradient(200, 150)
    whole = Image.fromarray(pixels).resize((85, 64), Image.Resampling.BILINEAR)
    left, top = round((85 - 56) / 2), (64 - 56) // 2
    expected = np.asarray(whole).astype(int)[top : top + 56, left : left + 56]
    found = decode_square(encoded(pixels), 56, resize=64, colour=True)
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_a_crop_is_the_box_that_was_drawn(file_format):
    crop = CropRange((0.1, 1.0), (0.8, 1.25))
    options = {'quality': 95, 'subsampling': 0} if file_format == 'JPEG' else {}
    for seed in range(20):
        # So large that a JPEG is decoded at a part of its size.
        file = encoded(gradient(400, 300), file_format, **options)
        found = decode_crop(file, 16, np.random.default_rng(seed), crop, flip=False, colour=True).astype(int)
        left, top, right, bottom = draw_box(np.random.default_rng(seed), 400, 300, crop)
        red = (np.linspace(left, right, 33)[1::2] - 0.5) * 255 / 399
        green = (np.linspace(top, bottom, 33)[1::2] - 0.5) * 255 / 299
        assert np.abs(found[..., 0] - red).max() <= 5
        assert np.abs(found[..., 1] - green[:, None]).max() <= 5


def test_flips_are_as_likely_as_not():
    file = encoded(gradient(16, 16))
    rngs = map(np.random.default_rng, range(100))
    left = [decode_crop(file, 16, rng, ALL, flip=True, colour=True)[0, 0, 0] for rng in rngs]
    assert set(left) == {0, 255}
    assert 30 < left.count(255) < 70


def test_a_crop_is_taken_from_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: 40×24 is 24×40 upright
    file = encoded(gradient(40, 24), 'JPEG', exif=exif, quality=95, subsampling=0)
    tall = CropRange((1.0, 1.0), (0.6, 0.6))
    found = decode_crop(file, 24, np.random.default_rng(0), tall, flip=False, colour=True)
    upright = Image.open(file).rotate(-90, expand=True).resize((24, 24), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(upright)).max() <= 6


@pytest.mark.parametrize('mode', ['CMYK', 'L', 'P', 'RGBA'])
def test_modes_of_pixels(mode):
    image = Image.fromarray(gradient(20, 20)).convert(mode)
    file = io.BytesIO()
    image.save(file, 'JPEG' if mode == 'CMYK' else 'PNG')
    rng = np.random.default_rng(0)
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert('RGB'))
    for colour in (True, False):
        found = decode_crop(io.BytesIO(file.getvalue()), 20, rng, ALL, flip=False, colour=colour)
        assert found.shape == (20, 20, 3 if colour else 1)
        if colour:
            np.testing.assert_array_equal(found, expected)


def test_a_check_finds_what_decoding_would():
    whole = encoded(gradient(300, 300), 'JPEG').getvalue()
    assert check_image(io.BytesIO(whole))
    assert not check_image(encoded(gradient(30, 30)[..., 0]))
    for damaged in (whole[:-100], whole[:200], b'', b'text'):
        with pytest.raises((OSError, SyntaxError)):
            check_image(io.BytesIO(damaged))
        with pytest.raises((OSError, SyntaxError)):
            decode_square(io.BytesIO(damaged), 16, colour=True)
