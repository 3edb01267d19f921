import io
import struct

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from metasemi_jax.data.images.chunks import open_images
from metasemi_jax.data.images.decode import check_image, decode_crop, decode_square, is_colour
from metasemi_jax.data.images.random_resized_crop import CropRange, draw_box

ALL = CropRange((1.0, 1.0), (1.0, 1.0))
WIDE = CropRange((0.2, 0.9), (0.5, 2.0))


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


def exif_bytes(kind, value):
    """An orientation as EXIF has it: `kind` 2 is text, 3 a number of 16 bits, 5 a fraction of two of 32."""
    if kind == 2:
        content = value.encode() + b'\0'
    else:
        content = struct.pack('<H', value) if kind == 3 else struct.pack('<II', *value)
    count = len(content) if kind == 2 else 1
    # Little-endian, one entry; what takes more than four bytes lies behind it.
    place = content.ljust(4, b'\0') if len(content) <= 4 else struct.pack('<I', 26)
    entry = struct.pack('<HHI', 0x0112, kind, count) + place
    return b'Exif\0\0II*\0' + struct.pack('<IH', 8, 1) + entry + struct.pack('<I', 0) + content


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize(
    ('kind', 'value'),
    [(3, 0), (3, 9), (3, 60000), (2, 'six'), (2, '6'), (2, 'rotated'), (5, (13, 2)), (5, (1, 0))],
)
def test_an_orientation_that_exif_does_not_know_is_upright(kind, value, file_format):
    """Read as without it, by the check, whole and in part; a number above 8 swaps no sides."""
    options = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 95}}.get(file_format, {})
    plain = encoded(gradient(40, 24), file_format, **options).getvalue()
    odd = encoded(gradient(40, 24), file_format, exif=exif_bytes(kind, value), **options).getvalue()
    assert 0x0112 in Image.open(io.BytesIO(odd)).getexif()
    for read in (
        lambda file: check_image(file),
        lambda file: decode_square(file, 24, colour=True),
        lambda file: decode_crop(file, 24, np.random.default_rng(0), WIDE, flip=False, colour=True),
    ):
        np.testing.assert_array_equal(read(io.BytesIO(odd)), read(io.BytesIO(plain)))


@pytest.mark.parametrize('file_format', ['PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_turned_image_is_turned_once(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'lossless': True} if file_format == 'WEBP' else {}
    turned = encoded(gradient(40, 24), file_format, exif=exif, **options)
    jpeg = encoded(gradient(40, 24), 'JPEG', exif=exif, quality=95, subsampling=0)
    for read in (
        lambda file: decode_square(file, 24, colour=True),
        lambda file: decode_crop(file, 24, np.random.default_rng(0), WIDE, flip=False, colour=True),
    ):
        assert np.abs(read(turned).astype(int) - read(jpeg)).max() <= 8


@pytest.mark.filterwarnings('ignore:.*orrupt EXIF data:UserWarning')
def test_damaged_metadata_do_not_stop_whole_pixels():
    exif = b'Exif\0\0II*\0' + b'\xff' * 20
    file = encoded(gradient(40, 24), 'JPEG', exif=exif)
    assert decode_square(file, 24, colour=True).shape == (24, 24, 3)
    assert decode_crop(file, 24, np.random.default_rng(0), ALL, flip=False, colour=True).shape == (24, 24, 3)


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n'


@pytest.mark.parametrize('content', [POSTSCRIPT, b'P6 2 2 255 ' + bytes(12)], ids=['PostScript', 'PPM'])
def test_other_formats_under_a_good_name_are_no_images(content, tmp_path, monkeypatch):
    """Pillow would start Ghostscript for PostScript, whatever the file is called."""
    monkeypatch.setattr('subprocess.check_call', None)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format in ('EPS', 'PPM')
    path = tmp_path / 'x.png'
    path.write_bytes(content)
    for file in (path, io.BytesIO(content)):
        for read in (
            is_colour,
            check_image,
            lambda file: decode_square(file, 8, colour=True),
            lambda file: decode_crop(file, 8, np.random.default_rng(0), ALL, flip=False, colour=True),
        ):
            with pytest.raises(UnidentifiedImageError):
                read(file)
    (chunk,) = open_images([str(path)], (8, 8, 3))[0].chunks(1)
    assert chunk.errors == {0: 'not an image, or damaged'}
