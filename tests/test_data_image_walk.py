"""Which files count as images: links, workdirs, files of other kinds, named pipes."""

import os

import numpy as np
import pytest

from metasemi_jax.data.images.chunks import open_images
from metasemi_jax.data.sources.image_walk import ImageWalk
from metasemi_jax.data.sources.own_images import load_own_images
from metasemi_jax.errors import UserError
from own_images import write_csv, write_folder, write_image


def load(path):
    return load_own_images(str(path), image_size=8, memory_budget=10**9)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_a_loop_counts_every_image_once(tmp_path, capsys):
    write_folder(tmp_path)
    before = load(tmp_path).train_ids.tolist()
    link(tmp_path / 'unlabeled' / 'loop', '../unlabeled')
    link(tmp_path / 'unlabeled' / 'sub0' / 'self', '.')
    assert load(tmp_path).train_ids.tolist() == before
    out = capsys.readouterr().out
    assert out.startswith(f'{tmp_path}: left out 2 links to what counts already (unlabeled/loop/, ')
    assert out.count('\n') == 1


def test_no_link_makes_a_test_image_an_unlabeled_one(tmp_path, capsys):
    write_folder(tmp_path, val=1)
    before = load(tmp_path)
    link(tmp_path / 'unlabeled' / 'up', '..')
    link(tmp_path / 'unlabeled' / 'one.png', '../test/cat/0.png')
    link(tmp_path / 'labeled' / 'cat' / 'too.png', tmp_path / 'test' / 'cat' / '1.png')
    write_image(tmp_path / 'elsewhere' / 'new.png', 77)
    after = load(tmp_path)
    assert set(after.train_ids) - set(before.train_ids) == {'unlabeled/up/elsewhere/new.png'}
    assert set(before.train_ids) <= set(after.train_ids)
    np.testing.assert_array_equal(after.test_ids, before.test_ids)
    assert 'links to what counts already (labeled/cat/too.png, unlabeled/one.png' in capsys.readouterr().out


def test_links_to_images_elsewhere_are_images(tmp_path):
    """A folder of links to another disk, as many have."""
    store = write_folder(tmp_path / 'store')
    for i, name in enumerate(('cat', 'dog')):
        link(tmp_path / 'mine' / 'labeled' / name / 'a.png', store / 'labeled' / name / f'{i}.png')
    link(tmp_path / 'mine' / 'unlabeled', store / 'unlabeled')
    data = load(tmp_path / 'mine')
    assert data.train_ids[:2].tolist() == ['labeled/cat/a.png', 'labeled/dog/a.png']
    assert len(data.train_ids) == 2 + 9


def test_hard_links_are_files_of_their_own(tmp_path):
    write_folder(tmp_path)
    os.link(tmp_path / 'unlabeled' / 'sub0' / '0.png', tmp_path / 'unlabeled' / 'copy.png')
    assert 'unlabeled/copy.png' in load(tmp_path).train_ids


def test_one_folder_in_two_classes_is_refused(tmp_path):
    write_folder(tmp_path)
    link(tmp_path / 'labeled' / 'emu', 'dog')
    with pytest.raises(UserError, match=r'links make labeled/emu/ and labeled/dog/ the same images'):
        load(tmp_path)


def test_a_csv_that_names_a_file_twice_by_a_link(tmp_path):
    write_folder(tmp_path)
    link(tmp_path / 'also', 'test')
    rows = [('labeled/cat/0.png', 'a', ''), ('labeled/dog/0.png', 'b', ''), ('test/cat/0.png', 'a', 'test')]
    path = write_csv(tmp_path / 'a.csv', rows, ('path', 'label', 'split'))
    assert len(load(path).train_ids) == 2
    write_csv(path, [*rows, ('also/cat/0.png', '', '')], ('path', 'label', 'split'))
    with pytest.raises(UserError, match=r'one image twice: also/cat/0.png and test/cat/0.png are the same'):
        load(path)


def test_figures_in_a_workdir_are_no_images(tmp_path, capsys):
    write_folder(tmp_path)
    before = load(tmp_path).train_ids.tolist()
    for name in ('config.json', 'labeled_ids.txt'):
        path = tmp_path / 'unlabeled' / 'runs' / 'one' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('')
    write_image(tmp_path / 'unlabeled' / 'runs' / 'one' / 'figures' / 'curves.png')
    assert load(tmp_path).train_ids.tolist() == before
    assert 'left out workdirs of runs (unlabeled/runs/one/)' in capsys.readouterr().out
    (source,) = open_images([str(tmp_path / 'unlabeled')], (8, 8, 3))
    assert source.count == 9
    # One that is named itself is searched.
    assert ImageWalk(tmp_path / 'unlabeled' / 'runs' / 'one').below('') == ['figures/curves.png']


def test_files_of_other_kinds_are_counted_by_training_and_by_predict(tmp_path, capsys):
    write_folder(tmp_path)
    for name in ('a.heic', 'b.HEIC', 'notes.txt', 'README'):
        (tmp_path / 'unlabeled' / name).write_text('')
    (tmp_path / 'unlabeled' / '.hidden.heic').write_text('')
    load(tmp_path)
    line = 'left out 4 files that are not read as images (2 .heic, 1 '
    assert line in capsys.readouterr().out
    said = []
    open_images([str(tmp_path / 'unlabeled')], (8, 8, 3), say=said.append)
    assert len(said) == 1
    assert line in said[0]
    assert said[0].endswith('PNG, JPEG, BMP, WebP, TIFF and GIF are read)')


@pytest.mark.parametrize('suffix', ['tiff', 'gif'])
def test_tiff_and_gif_are_read_by_training_and_by_predict(tmp_path, suffix):
    """The first frame."""
    from PIL import Image

    write_folder(tmp_path)
    frames = [Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue')]
    path = tmp_path / 'unlabeled' / f'x.{suffix}'
    frames[0].save(path, save_all=True, append_images=frames[1:])
    data = load(tmp_path)
    (position,) = np.flatnonzero(data.train_ids == f'unlabeled/x.{suffix}')
    (chunk,) = open_images([str(path)], (8, 8, 3))[0].chunks(1)
    for image in (data.train_images[position], chunk.images[0]):
        np.testing.assert_array_equal(image, np.broadcast_to([255, 0, 0], (8, 8, 3)))


def test_named_pipes_are_not_waited_for(tmp_path, capsys):
    write_folder(tmp_path)
    before = load(tmp_path).train_ids.tolist()
    os.mkfifo(tmp_path / 'unlabeled' / 'x.png')
    assert load(tmp_path).train_ids.tolist() == before
    assert '1 that are no regular files' in capsys.readouterr().out
    for name in ('x.csv', 'x.npz', 'x.jpg'):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=r'is neither a file nor a folder'):
            load(tmp_path / name)
        with pytest.raises(UserError, match=r'is neither a file nor a folder'):
            open_images([str(tmp_path / name)], (8, 8, 3))
    rows = [('labeled/cat/0.png', 'a'), ('labeled/dog/0.png', 'b'), ('unlabeled/x.png', '')]
    with pytest.raises(UserError, match=r'names 1 files that do not exist in .*: unlabeled/x.png'):
        load(write_csv(tmp_path / 'list.csv', rows))


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_folder(tmp_path / 'mine')
    assert len(load('~/mine').train_ids) == 16
    assert open_images(['~/mine/unlabeled'], (8, 8, 3))[0].count == 9
    for read in (load, lambda path: open_images([path], (8, 8, 3))):
        with pytest.raises(UserError, match=r'~nobody-here/mine: there is no such home folder'):
            read('~nobody-here/mine')
