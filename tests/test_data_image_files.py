import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.images.files import ImageFiles, read_images
from metasemi_jax.errors import UserError
from own_images import random_pixels, write_image


def files_of(*paths):
    return ImageFiles(paths[0].parent, [path.name for path in paths])


def read(*paths, size=8):
    return read_images(files_of(*paths), size, source=str(paths[0].parent))


def test_pixels_come_back_unchanged_in_order(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(70)]  # more than one task for the threads
    for i, path in enumerate(paths):
        write_image(path, i)
    images = read(*paths)
    assert images.dtype == np.uint8
    assert images.shape == (70, 8, 8, 3)
    np.testing.assert_array_equal(images, [random_pixels(i) for i in range(70)])


def test_grey_stays_grey_and_is_repeated_beside_colour(tmp_path):
    write_image(tmp_path / 'grey.png', 1, channels=1)
    write_image(tmp_path / 'colour.png', 2)
    grey = read(tmp_path / 'grey.png')
    np.testing.assert_array_equal(grey, random_pixels(1, channels=1)[None, ..., None])
    both = read(tmp_path / 'grey.png', tmp_path / 'colour.png')
    np.testing.assert_array_equal(both[0], np.repeat(grey[0], 3, axis=-1))
    np.testing.assert_array_equal(both[1], random_pixels(2))


def test_palettes(tmp_path):
    pixels = random_pixels(3, channels=1) % 4
    colours = np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3], [9, 9, 9]], np.uint8)
    greys = np.array([[7] * 3, [80] * 3, [200] * 3, [255] * 3], np.uint8)
    for name, palette in (('colour', colours), ('grey', greys)):
        image = Image.fromarray(pixels).convert('P')
        image.putdata(pixels.ravel().tolist())
        image.putpalette(palette.ravel().tolist())
        image.save(tmp_path / f'{name}.png')
    np.testing.assert_array_equal(read(tmp_path / 'colour.png')[0], colours[pixels])
    np.testing.assert_array_equal(read(tmp_path / 'grey.png')[0], greys[pixels][..., :1])


def test_transparency_is_laid_on_black(tmp_path):
    pixels = random_pixels(4, channels=4)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    image = read(tmp_path / 'a.png')[0].astype(float)
    expected = pixels[..., :3] * (pixels[..., 3:] / 255)
    assert np.abs(image - expected).max() <= 1
    grey = np.stack([random_pixels(5, channels=1), np.full((8, 8), 0, np.uint8)], axis=-1)
    Image.fromarray(
        grey,
    ).save(tmp_path / 'b.png')
    assert not read(tmp_path / 'b.png').any()
    assert read(tmp_path / 'b.png').shape == (1, 8, 8, 1)


def test_16_bit_grey_keeps_its_range(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(values).save(tmp_path / 'a.png')
    image = read(tmp_path / 'a.png')[0, ..., 0]
    np.testing.assert_array_equal(image, np.round(values / 257).astype(np.uint8))
    assert image.max() == 255


def turned(pixels, orientation):
    """The meaning of the EXIF tag, written out: how the stored rows and columns lie in the upright image."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_image(tmp_path / 'a.jpg', 6, quality=95, exif=exif)
    stored = np.asarray(Image.open(tmp_path / 'a.jpg'))
    assert np.abs(stored.astype(int) - turned(stored, orientation)).max() > 50 or orientation == 1
    np.testing.assert_array_equal(read(tmp_path / 'a.jpg')[0], turned(stored, orientation))


def shrink(pixels, size):
    """Mean over whole blocks of the middle square: no interpolation is left to choose."""
    side = min(pixels.shape[:2])
    top, left = ((n - side) // 2 for n in pixels.shape[:2])
    block = side // size
    square = pixels[top : top + side, left : left + side].astype(float)
    return square.reshape(size, block, size, block, 3).mean(axis=(1, 3))


@pytest.mark.parametrize('shape', [(32, 32), (32, 64), (96, 32)])
def test_the_middle_square_is_scaled(tmp_path, shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    # A smooth image, on which bilinear and block means agree inside.
    pixels = np.stack([rows * 2, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    image = read(tmp_path / 'a.png', size=8)[0]
    np.testing.assert_allclose(image[1:-1, 1:-1], shrink(pixels, 8)[1:-1, 1:-1], atol=1)


def test_sizes_may_differ_and_small_images_are_enlarged(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for path, size in zip(paths, ((1, 1), (5, 9), (40, 3)), strict=True):
        Image.new('RGB', size, (10, 20, 30)).save(path)
    images = read(*paths)
    np.testing.assert_array_equal(images, np.broadcast_to([10, 20, 30], (3, 8, 8, 3)))


def test_a_large_jpeg_looks_like_its_png(tmp_path):
    rows, columns = np.mgrid[:400, :400]
    pixels = np.stack([rows // 2, columns // 2, (rows + columns) // 4], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', quality=95)
    png, jpeg = read(tmp_path / 'a.png', tmp_path / 'a.jpg').astype(int)
    assert np.abs(png - jpeg).max() <= 3


def test_every_bad_file_is_counted_and_ten_are_named(tmp_path):
    write_image(tmp_path / 'good.png')
    whole = (tmp_path / 'good.png').read_bytes()
    write_image(tmp_path / 'good.jpg', size=(64, 64))
    jpeg = (tmp_path / 'good.jpg').read_bytes()
    contents = {f'text{i:02d}.png': b'not an image' for i in range(9)}
    contents |= {'empty.jpg': b'', 'cut.png': whole[:-40], 'cut.jpg': jpeg[: len(jpeg) // 2]}
    contents |= {'noise.png': whole[:50] + bytes(len(whole) - 50)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        read(*paths)
    message = str(caught.value)
    assert '13 of 15 images cannot be read: cut.jpg (' in message
    assert message.count('.png (') + message.count('.jpg (') == 10
    assert ' and 3 more; ' in message
    assert 'empty.jpg (not an image, or damaged)' in message
    assert 'cut.png (' in message
    assert 'noise.png (' in message
    assert 'good' not in message.split('read: ')[1]
    assert '\n' not in message
