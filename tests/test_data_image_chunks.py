import re
import zipfile

import numpy as np
import pytest

from metasemi_jax.data.images.chunks import array_source, open_images
from metasemi_jax.data.images.files import ImageFiles, read_images
from metasemi_jax.data.sources.image_arrays import load_npz
from metasemi_jax.errors import UserError
from own_images import random_pixels, write_image

COLOUR, GREY = (8, 8, 3), (8, 8, 1)


def read(sources, size=4):
    """All names, images and errors, whatever the chunks."""
    names, images, errors = [], [], {}
    for source in sources:
        before = len(names)
        for chunk in source.chunks(size):
            assert 1 <= len(chunk.names) == len(chunk.images) <= size
            errors |= {len(names) + i: reason for i, reason in chunk.errors.items()}
            names += chunk.names
            images.append(chunk.images)
        assert len(names) - before == source.count
    return names, np.concatenate(images), errors


@pytest.mark.parametrize('channels', [1, 3])
def test_files_as_in_training_whatever_the_chunks(tmp_path, channels):
    sizes = [(8, 8), (20, 11), (9, 30)]
    for i in range(150):
        folder = tmp_path / f'sub{i % 3}'
        write_image(folder / f'{i}.png', i, sizes[i % 3], channels)
    write_image(tmp_path / '.hidden.png')
    (tmp_path / 'notes.txt').write_text('left out')
    paths = sorted(tmp_path.glob('sub*/*.png'))
    files = ImageFiles(tmp_path, [path.relative_to(tmp_path).as_posix() for path in paths])
    expected = read_images(files, 8, source='')
    for size in (1000, 64, 7):
        names, images, errors = read(open_images([str(tmp_path)], (8, 8, channels)), size)
        assert sorted(names) == [str(path) for path in paths]
        assert errors == {}
        order = np.argsort(names)
        np.testing.assert_array_equal(images[order], expected)


def test_a_bad_file_is_reported_and_the_rest_is_read(tmp_path):
    write_image(tmp_path / 'a.png', 1)
    (tmp_path / 'b.png').write_bytes(b'no image')
    write_image(tmp_path / 'c.jpg', 2, (40, 40), quality=90)
    whole = (tmp_path / 'c.jpg').read_bytes()
    (tmp_path / 'c.jpg').write_bytes(whole[: len(whole) // 2])
    write_image(tmp_path / 'd.png', 3)
    (tmp_path / 'e.txt').write_text('named, hence tried')
    arguments = [str(tmp_path / name) for name in ('d.png', 'c.jpg', 'b.png', 'a.png', 'e.txt')]
    names, images, errors = read(open_images(arguments, COLOUR))
    assert names == arguments
    assert errors.keys() == {1, 2, 4}
    assert errors[2] == errors[4] == 'not an image, or damaged'
    assert 'truncated' in errors[1]
    np.testing.assert_array_equal(images[0], random_pixels(3))
    np.testing.assert_array_equal(images[3], random_pixels(1))
    assert not images[[1, 2, 4]].any()


@pytest.mark.parametrize('form', [(9, 8, 8, 3), (9, 11, 20, 3)])
@pytest.mark.parametrize('dtype', [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_as_in_training(tmp_path, form, dtype, save):
    x = np.random.default_rng(0).integers(0, 256, form)
    x = (x / 255).astype(dtype) if dtype == np.float32 else x.astype(dtype)
    save(tmp_path / 'a.npz', x=x, y=np.arange(9) % 2)
    expected = load_npz(tmp_path / 'a.npz', image_size=8, memory_budget=10**9).train_images
    names, images, errors = read(open_images([str(tmp_path / 'a.npz')], COLOUR))
    np.testing.assert_array_equal(images, expected)
    assert names[0] == f'{tmp_path}/a.npz[0]'
    assert (len(names), errors) == (9, {})


def test_bad_pixels_are_reported_by_image(tmp_path):
    x = np.full((6, 8, 8), 0.5, np.float32)
    x[1, 0, 0], x[4] = np.nan, 7
    np.savez(tmp_path / 'a.npz', x=x)
    _, images, errors = read(open_images([str(tmp_path / 'a.npz')], GREY))
    assert errors.keys() == {1, 4}
    assert errors[1] == 'NaN or infinite pixels'
    assert 'float32 pixels from 7 to 7, outside 0 to 1' in errors[4]
    assert (images[[0, 2, 3, 5]] == 128).all()


def test_an_array_of_another_form_than_the_network_takes_is_refused(tmp_path):
    path = tmp_path / 'a.npz'
    for x, shape, message in (
        (np.zeros((2, 8, 8, 4), np.uint8), COLOUR, r'images are of 8×8×4, the network takes 8×8×3'),
        (np.zeros((2, 8, 8), np.uint8), COLOUR, r'images are of 8×8×1, the network takes 8×8×3'),
        (np.zeros((2, 9, 9), np.uint8), (8, 6, 1), r'images are of 9×9×1, the network takes 8×6×1'),
        (np.zeros((8, 8), np.uint8), GREY, r'x must be images .* it is \[8, 8\] of uint8'),
        (np.zeros((0, 8, 8), np.uint8), GREY, r'x must be images .* it is \[0, 8, 8\]'),
        (np.array(['a']), GREY, r'x must be images'),
        (np.asfortranarray(np.zeros((2, 8, 8))), GREY, r'x must be images .* in Fortran order'),
    ):
        np.savez(path, x=x)
        with pytest.raises(UserError, match=message) as caught:
            open_images([str(path)], shape)
        assert '\n' not in str(caught.value)
    np.savez(path, images=np.zeros((2, 8, 8)))
    with pytest.raises(UserError, match=r'a.npz cannot be read as an .npz file \(it holds no x, but images'):
        open_images([str(path)], GREY)
    path.write_bytes(b'no zip')
    with pytest.raises(UserError, match=r'a.npz cannot be read as an .npz file'):
        open_images([str(path)], GREY)
    # One channel that the file leaves out, and a shape that is not square.
    np.savez(path, x=np.ones((2, 8, 6), np.uint8))
    assert read(open_images([str(path)], (8, 6, 1)))[1].shape == (2, 8, 6, 1)


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (50, 8, 8), np.uint8))
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo('x.npy').header_offset
    content = bytearray(path.read_bytes())
    content[offset + 2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'a.npz cannot be read as an .npz file \(Bad CRC-32'):
        read(open_images([str(path)], GREY), 50)


def test_paths_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'nowhere: there is no such file or folder'):
        open_images([f'{tmp_path}/nowhere'], GREY)
    with pytest.raises(UserError, match=re.escape('empty holds no image (.png, ')):
        open_images([f'{tmp_path}/empty'], GREY)
    write_image(tmp_path / 'a.png')
    with pytest.raises(UserError, match=r'takes images of 8×6×1, and image files become squares'):
        open_images([f'{tmp_path}/a.png'], (8, 6, 1))


def test_part_of_an_array():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None]
    positions, labels = np.array([7, 2, 5]), np.array([1, -1, 0])
    source = array_source(['g', 'b', 'e'], images, positions, labels)
    chunks = list(source.chunks(2))
    assert [chunk.names for chunk in chunks] == [['g', 'b'], ['e']]
    assert [chunk.images.ravel().tolist() for chunk in chunks] == [[7, 2], [5]]
    assert [chunk.labels.tolist() for chunk in chunks] == [[1, -1], [0]]
    unknown = array_source(['g', 'b', 'e'], images, positions, np.full(3, -1))
    assert {chunk.labels is None for chunk in unknown.chunks(2)} == {True}
