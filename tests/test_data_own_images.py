import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.images.chunks import open_images
from metasemi_jax.data.sources.own_images import load_own_images
from metasemi_jax.errors import UserError
from own_images import random_pixels, write_csv, write_folder, write_image


def load(path, size=8, budget=10**9):
    return load_own_images(str(path), image_size=size, memory_budget=budget)


def refused(path, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    assert '\n' not in str(caught.value)


def test_a_folder(tmp_path):
    data = load(write_folder(tmp_path, val=1))
    assert data.class_names == ('cat', 'dog')
    assert data.train_images.shape == (4 + 3 + 9, 8, 8, 3)
    assert np.bincount(data.train_labels + 1).tolist() == [9, 4, 3]
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.val_labels.tolist() == [0, 1]
    assert len(set(data.train_ids)) == 16
    for images, names in (
        (data.train_images, data.train_ids),
        (data.test_images, ['test/cat/0.png', 'test/cat/1.png', 'test/dog/0.png', 'test/dog/1.png']),
        (data.val_images, ['val/cat/0.png', 'val/dog/0.png']),
    ):
        np.testing.assert_array_equal(images, [np.asarray(Image.open(tmp_path / name)) for name in names])
    for name, label in zip(data.train_ids, data.train_labels, strict=True):
        assert name.startswith('unlabeled/sub' if label < 0 else f'labeled/{data.class_names[label]}/')


def test_what_a_folder_may_lack_and_hold(tmp_path):
    write_folder(tmp_path, unlabeled=0, test=0)
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / 'labeled' / 'cat' / 'Thumbs.db').write_text('')
    (tmp_path / 'labeled' / '.ipynb_checkpoints').mkdir()
    write_image(tmp_path / 'labeled' / 'dog' / 'more' / 'UP.JPG')
    (tmp_path / 'unlabeled').symlink_to(
        write_folder(tmp_path.with_name(f'{tmp_path.name}_far')) / 'unlabeled'
    )
    data = load(tmp_path)
    assert data.test_images is data.test_labels is data.val_images is data.val_labels is None
    assert 'labeled/dog/more/UP.JPG' in data.train_ids
    assert np.bincount(data.train_labels + 1).tolist() == [9, 4, 4]


def test_a_csv_says_the_same_as_a_folder(tmp_path):
    folder = load(write_folder(tmp_path, val=1))
    rows = [
        (name, '' if label < 0 else folder.class_names[label], '')
        for name, label in zip(folder.train_ids, folder.train_labels, strict=True)
    ]
    for split in ('val', 'test'):
        rows += [
            (f'./{path.relative_to(tmp_path)}', path.parent.name, split)
            for path in sorted((tmp_path / split).rglob('*.png'))
        ]
    data = load(write_csv(tmp_path / 'list.csv', rows, ('path', 'label', 'split')))
    for one, other in zip(folder, data, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_csv_of_two_columns_as_excel_writes_it(tmp_path):
    write_folder(tmp_path, unlabeled=1, test=0)
    text = 'path,label\r\nlabeled/cat/0.png,b\r\nlabeled/dog/0.png,"a, really"\r\nunlabeled/sub0/0.png,\r\n'
    (tmp_path / 'list.csv').write_bytes(b'\xef\xbb\xbf' + text.encode())
    data = load(tmp_path / 'list.csv')
    assert data.class_names == ('a, really', 'b')
    assert data.train_labels.tolist() == [1, 0, -1]
    assert data.test_images is None


CSV_ERRORS = {
    'file,label\na.png,x\n': "must name the columns path,label .* it is 'file,label'",
    'path;label\na.png;x\n': "it is 'path;label'",
    'path,label,fold\na.png,x,1\n': "it is 'path,label,fold'",
    '': "it is ''",
    'path,label\n': 'names no image',
    'path,label\na.png,x\nb.png\n': 'line 3: a row must have as many fields',
    'path,label\na.png,x,y\n': 'line 2: a row must have as many fields',
    'path,label\n,x\n': 'line 2: the path is empty',
    'path,label,split\na.png,x,training\n': "line 2: the split 'training' is unknown; use train, val or test",
    'path,label,split\na.png,,test\n': 'line 2: an image of the split test needs a label',
    'path,label\na.png,x\nno.png,y\nnor.png,y\n': 'names 2 files that do not exist in .*: no.png, nor.png',
    'path,label\na.png,x\nb.png,y\n./a.png,x\n': 'names 1 images twice: a.png',
    'path,label\na.png,x\nb.png,x\n': 'labeled images of two classes or more, not 1',
    'path,label,split\na.png,x,\nb.png,y,\nc.png,z,test\n': 'no labeled training image is of the class z',
    'path,label\na.png,"x\n': 'is not a CSV file',
    'path,label\na.png,\udcff\n': 'is not a CSV file in UTF-8',
}


@pytest.mark.parametrize('text', CSV_ERRORS, ids=CSV_ERRORS.values())
def test_a_bad_csv(tmp_path, text):
    for i, name in enumerate('abc'):
        write_image(tmp_path / f'{name}.png', i)
    (tmp_path / 'list.csv').write_bytes(text.encode(errors='surrogateescape'))
    refused(tmp_path / 'list.csv', CSV_ERRORS[text])


def test_a_bad_folder(tmp_path):
    refused(tmp_path / 'no', 'there is no such file or folder')
    refused('', 'name your images with data.path=')
    refused(tmp_path, r'holds no folder labeled/; the layout is labeled/<class>/\*')
    (tmp_path / 'labeled').mkdir()
    refused(tmp_path, r'no image \(.png, .jpg, .* in labeled/; fill or delete it')
    write_folder(tmp_path)
    for folder in ('labeled/emu', 'test/cow'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'notes.txt').write_text('later')
    refused(tmp_path, r'no image \(.*\) in labeled/emu/, test/cow/; fill or delete it')
    write_image(tmp_path / 'test' / 'cow' / '1.png')
    write_image(tmp_path / 'labeled' / 'emu' / '1.png')
    refused(tmp_path, r'no labeled training image is of the class cow, .* to one of cat, dog, emu')
    write_image(tmp_path / 'labeled' / 'loose.png')
    refused(tmp_path, r"labeled/ holds 1 images that are in no class folder, the first 'loose.png'")
    (tmp_path / 'labeled' / 'loose.png').unlink()
    write_image(tmp_path / 'labeled' / 'cow' / '1.png')
    load(tmp_path)
    refused(tmp_path, 'image files need a size', size=0)
    (tmp_path / 'labeled' / 'cow' / '2\n3.png').write_bytes(b'')
    refused(tmp_path, r"the file name 'labeled/cow/2\\n3.png' has a line break")
    (tmp_path / 'notes.txt').write_text('mine')
    refused(tmp_path / 'notes.txt', r'neither a folder nor a .csv or .npz file')


def test_an_empty_unlabeled_folder(tmp_path):
    write_folder(tmp_path, unlabeled=0)
    (tmp_path / 'unlabeled').mkdir()
    refused(tmp_path, r'in unlabeled/; fill or delete it')


X = np.stack([random_pixels(i) for i in range(6)])
Y = np.array([0, 1, -1, 1, -1, -1])


def save(path, **arrays):
    np.savez(path, **({'x': X, 'y': Y} | arrays))
    return path


def test_npz(tmp_path):
    data = load(save(tmp_path / 'a.npz', x_test=X[:2], y_test=Y[:2], class_names=['no', 'yes']))
    np.testing.assert_array_equal(data.train_images, X)
    np.testing.assert_array_equal(data.train_labels, Y)
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert data.train_ids.tolist() == ['000000', '000001', '000002', '000003', '000004', '000005']
    np.testing.assert_array_equal(data.test_images, X[:2])
    assert data.class_names == ('no', 'yes')
    assert data.val_images is None


def test_npz_of_other_forms(tmp_path):
    grey = load(save(tmp_path / 'a.npz', x=X[..., 0], x_val=X[:1, ..., 0], y_val=Y[:1]))
    np.testing.assert_array_equal(grey.train_images, X[..., :1])
    assert grey.val_images.shape == (1, 8, 8, 1)
    assert grey.class_names == ('0', '1')
    floats = load(save(tmp_path / 'a.npz', x=X.astype(np.float32) / 255))
    np.testing.assert_array_equal(floats.train_images, X)
    np.testing.assert_array_equal(load(save(tmp_path / 'a.npz', x=X.astype(np.int64))).train_images, X)
    assert load(save(tmp_path / 'a.npz'), size=0).image_shape == (8, 8, 3)
    small = load(save(tmp_path / 'a.npz'), size=4).train_images
    image = Image.fromarray(X[0]).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small[0], np.asarray(image))


NPZ_ERRORS = {
    'x holds 6 images, so y must be': {'y': Y[:5]},
    'x must be images': {'x': X[0, 0]},
    'NaN or infinite pixels in 1 images, the first at position 2': {
        'x': np.where(np.arange(6)[:, None, None, None] == 2, np.nan, X / 255)
    },
    'float64 pixels from 0 to 255, outside 0 to 1; save pixels as uint8': {'x': X.astype(float)},
    'int64 pixels from 0 to 510, outside 0 to 255': {'x': X.astype(np.int64) * 2},
    'holds pixels of type bool': {'x': X > 3},
    'y must be integers': {'y': Y.astype(float)},
    'y holds the label -2; the lowest is -1': {'y': Y - (Y < 0)},
    'the label 1 is outside class_names': {'class_names': ['one']},
    'no image of x is labeled 1 in y, and every class of 0 to 2': {'y': Y * np.where(Y > 0, 2, 1)},
    'class_names holds a name twice': {'class_names': ['a', 'a']},
    'two classes or more, not 1': {'y': np.minimum(Y, 0)},
    'needs both x_test and y_test; it holds x, y, x_test': {'x_test': X},
    'y_test holds the label -1; the lowest is 0': {'x_test': X, 'y_test': Y},
    'y holds the label 1000000000000, and the 6 images of x have as many': {'y': np.where(Y == 1, 10**12, Y)},
    'y holds the label 4294967297': {'y': np.where(Y == 1, 2**32 + 1, Y)},
    'y_test holds the label 4294967297': {'x_test': X[:1], 'y_test': np.array([2**32 + 1])},
    r'x of shape \[6, 3, 8, 8\] looks like \[N, C, H, W\].*use x.transpose\(0, 2, 3, 1\)': {
        'x': X.transpose(0, 3, 1, 2)
    },
    r"holds x_tst, which means nothing here \(did you mean 'x_test'\?\); the arrays are x, y,": {'x_tst': X},
    'differ in shape': {'x_val': X[..., 0], 'y_val': np.abs(Y)},
    'cannot be read as an .npz file .*allow_pickle': {'x': X, 'class_names': np.array(['a', 1], object)},
}


@pytest.mark.parametrize('message', NPZ_ERRORS)
def test_a_bad_npz(tmp_path, message):
    refused(save(tmp_path / 'a.npz', **NPZ_ERRORS[message]), message)


def write_npy_header(archive, name, shape):
    """An array of this shape as its header says, and no values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': shape})
    archive.writestr(f'{name}.npy', file.getvalue())


@pytest.mark.parametrize('shape', [(-1, 8, 8, 3), (6, -8, 8, 3), (6, 8, 8, 0)])
def test_an_npz_whose_header_lies(tmp_path, shape):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        write_npy_header(archive, 'x', shape)
        write_npy_header(archive, 'y', (6,))
    refused(path, r'x must be images \[N, H, W\] or \[N, H, W, C\], its shape is')
    with pytest.raises(UserError, match=r'x must be images'):
        open_images([str(path)], (8, 8, 3))


def test_channels_first_in_predict(tmp_path):
    np.savez(tmp_path / 'a.npz', x=X.transpose(0, 3, 1, 2))
    with pytest.raises(UserError, match=r'looks like \[N, C, H, W\].*use x.transpose'):
        open_images([str(tmp_path / 'a.npz')], (8, 8, 3))


def test_a_damaged_or_large_npz(tmp_path):
    path = save(tmp_path / 'a.npz')
    refused(path, 'more than data.memory_budget=1,151', budget=1151)
    load(path, budget=1152)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, 'cannot be read as an .npz file')
    path.write_bytes(b'')
    refused(path, 'cannot be read as an .npz file')
    np.savez(path, images=X)
    refused(path, 'needs both x and y; it holds images')
