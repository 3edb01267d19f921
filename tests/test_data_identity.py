"""A run goes on with the images that it began with, and with no others."""

import functools
import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.identity import changed_parts, data_sha256
from metasemi_jax.data.sources.own_images import load_own_images
from metasemi_jax.data.sources.registry import load_dataset
from own_images import random_pixels, write_csv, write_folder, write_image


def load(path, **options):
    return load_own_images(str(path), **{'image_size': 8, 'memory_budget': 10**9} | options)


def whole(path, **options):
    return data_sha256(load(path, **options), [])


def first_version(dataset, held_out):
    """What earlier versions recorded."""
    parts = (sorted(dataset.train_ids), sorted(held_out), dataset.class_names)
    return hashlib.sha256('\n\n'.join('\n'.join(part) for part in parts).encode()).hexdigest()


def test_it_stays_where_images_move_or_stay_on_disk(tmp_path):
    first = whole(write_folder(tmp_path / 'mine', val=1))
    shutil.copytree(tmp_path / 'mine', tmp_path / 'moved')
    assert whole(tmp_path / 'moved') == first
    assert whole(tmp_path / 'moved', on_disk=True) == first
    assert whole(tmp_path / 'moved', memory_budget=100) == first


def replace_pixels(path):
    """The same name, size in bytes and labels, other pixels."""
    Image.fromarray(random_pixels(999)).save(path)


CHANGES = {
    'a test image is replaced': lambda root: replace_pixels(root / 'test' / 'cat' / '0.bmp'),
    'a validation image is replaced': lambda root: replace_pixels(root / 'val' / 'cat' / '0.bmp'),
    'a training image is replaced': lambda root: replace_pixels(root / 'unlabeled' / '0.bmp'),
    'a test image is added': lambda root: write_image(root / 'test' / 'dog' / 'new.bmp'),
    'a test image is relabeled': lambda root: (root / 'test' / 'cat').rename(root / 'test' / 'dog'),
    'a test set is removed': lambda root: shutil.rmtree(root / 'test'),
}


@pytest.mark.parametrize('change', CHANGES)
def test_every_change_is_seen(tmp_path, change):
    for i, name in enumerate(('labeled/cat/0', 'labeled/dog/0', 'unlabeled/0', 'val/cat/0', 'test/cat/0')):
        write_image(tmp_path / f'{name}.bmp', i)
        write_image(tmp_path / f'{name.replace("/0", "/1")}.bmp', 10 + i)
    before = load(tmp_path)
    recorded = data_sha256(before, [])
    assert not changed_parts(recorded, load(tmp_path), [])
    CHANGES[change](tmp_path)
    assert changed_parts(recorded, load(tmp_path), [])


def test_large_sets_are_told_apart_by_the_sizes_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr('metasemi_jax.data.sources.own_images.HASHED_BYTES', 10)
    write_folder(tmp_path)
    first = whole(tmp_path)
    monkeypatch.setattr('metasemi_jax.data.sources.own_images.ImageFiles.open', None)
    assert whole(tmp_path) == first
    write_image(tmp_path / 'test' / 'cat' / '0.png', size=(9, 9))
    assert whole(tmp_path) != first


def test_the_rows_of_a_csv_in_any_order(tmp_path):
    write_folder(tmp_path)
    rows = [('labeled/cat/0.png', 'a'), ('labeled/dog/0.png', 'b'), ('unlabeled/sub0/0.png', '')]
    first = whole(write_csv(tmp_path / 'a.csv', rows))
    assert whole(write_csv(tmp_path / 'b.csv', rows[::-1])) == first
    # A label less, the ids the same: earlier versions did not see this.
    rows += [('labeled/cat/1.png', 'a')]
    with_label = load(write_csv(tmp_path / 'c.csv', rows))
    without = load(write_csv(tmp_path / 'd.csv', [*rows[:-1], ('labeled/cat/1.png', '')]))
    assert first_version(with_label, []) == first_version(without, [])
    assert data_sha256(with_label, []) != data_sha256(without, [])


def test_npz(tmp_path):
    x = np.stack([random_pixels(i) for i in range(6)])
    y = np.array([0, 1, -1, 1, -1, -1])
    arrays = {'x': x, 'y': y, 'x_test': x[:2], 'y_test': y[:2]}
    path = tmp_path / 'a.npz'

    def saved(save=np.savez, **changed):
        save(path, **arrays | changed)
        return whole(path)

    first = saved()
    assert saved(save=np.savez_compressed) == first
    others = [
        saved(x=x[::-1]),
        saved(x_test=x[2:4]),
        saved(y_test=np.array([1, 0])),
        saved(y=np.array([0, 1, -1, -1, -1, -1])),
        saved(class_names=['a', 'b']),
    ]
    assert len({first, *others}) == 6


@pytest.mark.parametrize('held_out', [[], ['0003']])
def test_runs_begun_by_earlier_versions_go_on(held_out):
    data = load_dataset('digits')
    recorded = first_version(data, held_out)
    assert not changed_parts(recorded, data, held_out)
    assert changed_parts(recorded, data, ['0004'])
    assert changed_parts(recorded, data._replace(train_ids=data.train_ids[1:]), held_out)
    assert not changed_parts(None, data, held_out)
    assert not changed_parts(data_sha256(data, held_out), data, held_out)


def test_no_two_lists_make_the_same_text():
    data = load_dataset('digits')
    names = functools.partial(data._replace, test_ids=None, test_labels=None)
    assert data_sha256(names(content='a\nb'), []) != data_sha256(names(content='a'), ['b'])
    assert data_sha256(names(class_names=('a\nb',)), []) == data_sha256(names(class_names=('a\nb',)), [])
