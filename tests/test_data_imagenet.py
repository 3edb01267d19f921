"""ImageNet in tiny tar files of the real format, and as TFDS prepares it, without TensorFlow."""

import io
import json
import os
import pickle
import subprocess
import tarfile
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds

from archives import (
    CMYK_NAME,
    IMAGENET_CLASSES,
    PNG_NAME,
    command,
    expect_archives,
    hide_tensorflow,
    imagenet_image,
    prepare_imagenet,
    tar_bytes,
    write_imagenet,
)
from configs import imagenet as imagenet_config
from metasemi_jax.classifier import load_classifier
from metasemi_jax.config.checks import check_config
from metasemi_jax.data.identity import data_sha256
from metasemi_jax.data.images.decode import decode_square
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.images.tar_images import TarImages, files_in
from metasemi_jax.data.sources.imagenet import load_imagenet
from metasemi_jax.data.sources.imagenet_subsets import subset_file
from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import draw_split, split_positions
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import load_run_data
from metasemi_jax.progress import speaking
from small_runs import ROOT, contents

NAMES = 'imagenet2012,imagenet2012_subset'


def expect(monkeypatch, folder):
    for name in NAMES.split(','):
        expect_archives(monkeypatch, name, folder)


def load(root, **options):
    options = {'manual_dir': str(root / 'originals'), 'image_size': 28, 'resize': 32} | options
    return load_imagenet(data_dir=str(root / 'tfds'), **options)


@pytest.fixture(scope='module')
def indexed(tmp_path_factory):
    """(its folder, the files in the archives, the dataset)."""
    root = tmp_path_factory.mktemp('imagenet')
    files = write_imagenet(root / 'originals')
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_tensorflow(monkeypatch)
        expect(monkeypatch, root / 'originals')
        yield root, files, load(root)


def square(content):
    return decode_square(io.BytesIO(content), 28, resize=32, colour=True)


def test_images_and_labels_are_those_of_the_archives(indexed):
    _, files, data = indexed
    assert sorted(data.train_ids) == sorted(files['train'])
    assert data.train_images.shape == (20, 28, 28, 3)
    for i, name in enumerate(data.train_ids):
        # The CMYK image and the PNG among them, in RGB.
        np.testing.assert_array_equal(data.train_images.decode(i), square(files['train'][name]))
        assert data.class_names[data.train_labels[i]] == name.partition('_')[0]
    assert data.num_classes == 1000
    # TFDS keeps the validation labels in the order of the files' names.
    official = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
    label_of = {
        square(files['validation'][name]).tobytes(): label
        for name, label in zip(sorted(files['validation']), official, strict=False)
    }
    found = [label_of.pop(pixels.tobytes()) for pixels in np.asarray(data.test_images)]
    assert found == [data.class_names[k] for k in data.test_labels]
    assert not label_of
    # As Grain's workers get them.
    again = pickle.loads(pickle.dumps(data.train_images[3:5]))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(data.train_images[3:5]))


def test_what_tfds_has_prepared_gives_the_same_data(indexed, tmp_path):
    """A run that began on TFDS's records goes on with the archives."""
    root, files, data = indexed
    prepare_imagenet(tmp_path, files)
    options = {'data_dir': str(tmp_path), 'image_size': 28, 'resize': 32}
    prepared = load_imagenet(**options, manual_dir=str(root / 'originals'))
    # The records, which go first.
    indexes = [path.name for path in (tmp_path / 'metasemi_jax' / 'imagenet2012').iterdir()]
    assert sorted(indexes) == ['5.1.0', '5.1.0.lock']
    assert prepared.class_names == data.class_names
    for kind in ('train_ids', 'train_labels', 'test_labels'):
        np.testing.assert_array_equal(getattr(prepared, kind), getattr(data, kind))
    assert data_sha256(prepared, []) == data_sha256(data, [])
    drawn = {'num_labels': 0, 'num_validation': 5, 'seed': 3}
    assert draw_split(prepared, **drawn) == draw_split(data, **drawn)
    odd = np.isin(data.train_ids, (CMYK_NAME, PNG_NAME))
    for one, other in (
        (prepared.train_images[~odd], data.train_images[~odd]),
        (prepared.test_images, data.test_images),
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    # TFDS has encoded these two anew, as JPEGs of quality 100.
    differences = np.asarray(prepared.train_images[odd]).astype(int) - np.asarray(data.train_images[odd])
    assert 0 < np.abs(differences).mean() < 2
    # The index of the records serves without the archives.
    before = contents(tmp_path)
    np.testing.assert_array_equal(load_imagenet(**options).train_ids, data.train_ids)
    assert contents(tmp_path) == before


def test_a_later_load_decodes_no_image_and_writes_nothing(indexed, monkeypatch, tmp_path):
    root, _, data = indexed
    monkeypatch.setattr('metasemi_jax.data.sources.imagenet_tars.check_all', None)
    before = contents(root)
    # The archives may have moved.
    (tmp_path / 'moved').symlink_to(root / 'originals')
    again = load(root, manual_dir=str(tmp_path / 'moved'))
    np.testing.assert_array_equal(again.train_ids, data.train_ids)
    np.testing.assert_array_equal(np.asarray(again.test_images), np.asarray(data.test_images))
    gone = r'gone lacks ILSVRC2012_img_train.tar .* which every run reads; get them.*data.manual_dir='
    refused(root, gone, manual_dir=str(root / 'gone'))
    assert contents(root) == before


def test_a_replaced_archive_is_indexed_anew(tmp_path, monkeypatch, capsys):
    originals = tmp_path / 'originals'
    files = write_imagenet(originals, per_class=2, val=3)
    expect(monkeypatch, originals)
    first = load(tmp_path)
    train = originals / 'ILSVRC2012_img_train.tar'
    # As many bytes, in which the first class comes last.
    with tarfile.open(train) as archive:
        synsets = {member.name: archive.extractfile(member).read() for member in archive}
    train.write_bytes(tar_bytes(dict(reversed(synsets.items()))))
    os.utime(train, (1, 1))
    with speaking():
        second = load(tmp_path)
    assert (
        'originals, again: they differ, or their times of change do, which copies must keep\n'
        in capsys.readouterr().out
    )
    np.testing.assert_array_equal(first.train_ids, second.train_ids)
    expected = [square(files['train'][name]) for name in second.train_ids]
    np.testing.assert_array_equal(np.asarray(second.train_images), expected)


def test_ctrl_c_leaves_nothing_half(tmp_path, monkeypatch):
    write_imagenet(tmp_path / 'originals', per_class=2, val=3)
    expect(monkeypatch, tmp_path / 'originals')

    def interrupt(*args):
        raise KeyboardInterrupt

    before = besides_locks(tmp_path)
    for place in ('sources.imagenet_tars.check_image', 'sources.array_cache.files.write_json'):
        with monkeypatch.context() as context:
            context.setattr(f'metasemi_jax.data.{place}', interrupt)
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path)
        assert besides_locks(tmp_path) == before
    assert len(load(tmp_path).train_ids) == 8


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_only_headers_are_read_of_any_form_of_tar(tmp_path, form):
    path, name = tmp_path / 'a.tar', ('x' * 90 if form == tarfile.USTAR_FORMAT else 'é' * 150) + '.JPEG'
    contents = [bytes([i]) * 1_000_000 for i in range(5)]
    with tarfile.open(path, 'w', format=form) as archive:
        for i, content in enumerate(contents):
            member = tarfile.TarInfo(f'{i}{name}')
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with path.open('rb') as file, tarfile.open(fileobj=file, mode='r:') as archive:
        counted = mock.patch.object(archive, 'fileobj', wraps=file)
        with counted as reads:
            members = list(files_in(archive))
        assert sum(call.args[0] for call in reads.read.call_args_list) < 2_000_000
    assert [member.name for member in members] == [f'{i}{name}' for i in range(5)]
    images = TarImages(path, np.array([(member.offset_data, member.size) for member in members]))
    assert [images.open(i).read() for i in range(5)] == contents


def test_an_archive_that_goes_during_a_run_is_named(tmp_path):
    path = tmp_path / 'a.tar'
    path.write_bytes(tar_bytes({'x.JPEG': imagenet_image(0, (9, 9))}))
    places = np.array([(512, path.stat().st_size), (70_000, 10)])
    images = StoredImages(TarImages(path, places), 2, 8, colour=True)
    assert images.decode(0).shape == (8, 8, 3)
    with pytest.raises(UserError, match=r'a\.tar, byte 70,000 cannot be read any more \(not an image, or'):
        images.decode(1)
    path.unlink()
    with pytest.raises(UserError, match=r'byte 512 cannot be read any more \(No such file.*put it back'):
        images.decode(0)


def test_the_lists_of_labeled_images(indexed, tmp_path):
    root, _, data = indexed
    path = subset_file('10percent.txt', data_dir=str(tmp_path), manual_dir=str(root / 'originals'))
    named = read_split_file(str(path), data.train_ids)
    assert len(named) == 6
    labeled, unlabeled = split_positions(data.train_ids, named)
    assert sorted([*labeled, *unlabeled]) == list(range(len(data.train_ids)))
    assert np.bincount(data.train_labels[labeled])[np.unique(data.train_labels)].tolist() == [2, 2, 2]
    # A list of paths, as programs on unpacked archives have it.
    (tmp_path / 'paths.txt').write_text(''.join(f'{name.partition("_")[0]}/{name}\n' for name in named))
    assert read_split_file(str(tmp_path / 'paths.txt'), data.train_ids) == named


def test_epochs_are_those_of_the_authors():
    """600 of the unlabeled images; labels alone: 600 of the labeled ones, and the rate falls over these."""
    metasemi, labeled_only = imagenet_config.get_config(), imagenet_config.get_config('supervised')
    assert metasemi.total_steps == -(-600 * 1_153_051 // 512)
    assert labeled_only.total_steps == 600 * (128_116 // 512) == 150_000
    for config in (metasemi, labeled_only):
        assert config.total_steps // config.eval_every == 600
        assert config.optimizer.warmup_steps == 5 * config.eval_every
        assert config.optimizer.schedule == 'cosine'
        check_config(config)
    assert metasemi.optimizer.lr == labeled_only.optimizer.lr


def besides_locks(root):
    return {path: content for path, content in contents(root).items() if path.suffix != '.lock'}


def refused(root, message, **options):
    before = besides_locks(root)
    with pytest.raises(UserError, match=message) as caught:
        load(root, **options)
    assert '\n' not in str(caught.value)
    assert besides_locks(root) == before


def test_missing_and_damaged_archives(tmp_path, monkeypatch):
    originals = tmp_path / 'originals'
    write_imagenet(originals, per_class=2, val=3)
    refused(tmp_path, r'img_train.tar is damaged: it has \d+ bytes; it should have \d+ bytes: get it')
    expect(monkeypatch, originals)
    refused(tmp_path, r'data.image_size=0: ImageNet needs a size', image_size=0)
    train = originals / 'ILSVRC2012_img_train.tar'
    whole = train.read_bytes()
    with tarfile.open(train) as archive:
        second = archive.getmembers()[1]
        with tarfile.open(fileobj=archive.extractfile(second)) as images:
            header = second.offset_data + images.getmembers()[1].offset
    # The size is what is expected: cut within a synset; a damaged header, at which tarfile would stop without
    # a word, of a synset and of an image; a download whose rest is zeros, and one that is nothing else.
    cut, ones = whole[: len(whole) // 2], b'1' * 512
    damaged = [whole[:at] + ones + whole[at + 512 :] for at in (second.offset, header)]
    for content in (cut, *damaged, whole[: second.offset] + bytes(3 << 20), bytes(3 << 20)):
        train.write_bytes(content)
        expect(monkeypatch, originals)
        refused(tmp_path, r'img_train.tar cannot be read as the archive its name says')
    train.write_bytes(whole)
    refused(tmp_path, r'img_train.tar is damaged: it has')
    train.unlink()
    refused(
        tmp_path, r'lacks ILSVRC2012_img_train.tar \(\d+ bytes\), which every run reads; get them from http'
    )
    assert {path.suffix for path in (tmp_path / 'tfds').rglob('*') if path.is_file()} == {'.lock'}


def test_all_images_that_cannot_be_decoded_are_named(tmp_path, monkeypatch):
    originals = tmp_path / 'originals'
    files = write_imagenet(originals, per_class=3, val=3)
    synset = IMAGENET_CLASSES[0]
    names = [f'{synset}_{i}.JPEG' for i in range(3)]
    damaged = files['train'] | {names[0]: files['train'][names[0]][:300], names[1]: b''}
    train = {f'{synset}.tar': tar_bytes({name: damaged[name] for name in names})}
    (originals / 'ILSVRC2012_img_train.tar').write_bytes(tar_bytes(train))
    expect(monkeypatch, originals)
    with pytest.raises(UserError, match=r'2 of 6 images cannot be read: ') as caught:
        load(tmp_path)
    assert f'{names[0]} (' in str(caught.value)
    assert f'{names[1]} (not an image, or damaged)' in str(caught.value)
    assert names[2] not in str(caught.value)


def test_the_config_trains_without_tensorflow(indexed, tmp_path):
    """Two steps of the real config as a user types it; the images, the width and the batch are small."""
    root, _, _ = indexed
    flags = {
        'data.data_dir': root / 'tfds',
        'data.manual_dir': root / 'originals',
        'data.image_size': 32,
        'data.num_workers': 1,
        'model.width': 2,
        'batch_size': 4,
        'total_steps': 2,
        'optimizer.warmup_steps': 1,
        'eval_batch_size': 4,
    }
    process = subprocess.run(
        command(
            NAMES,
            root / 'originals',
            ROOT / 'main.py',
            f'--config={ROOT}/configs/imagenet.py',
            f'--workdir={tmp_path}/run',
            *(f'--config.{name}={value}' for name, value in flags.items()),
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, '')
    assert 'imagenet2012: 6 labeled, 14 unlabeled, 7 test images of 1000 classes' in process.stdout
    assert '32×32×3 pixels from disk' in process.stdout
    assert json.loads((tmp_path / 'run' / 'results.json').read_text())['steps'] == 2
    last = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])
    assert 0 <= last['test/error_top5'] <= last['test/error'] <= 100
    trained = load_classifier(str(tmp_path / 'run'))
    assert len(load_run_data(trained, manual_dir=str(root / 'originals')).labeled) == 6
    with pytest.raises(UserError, match=r'lacks ILSVRC2012_img_train.*--manual_dir= names the new place'):
        load_run_data(trained, manual_dir=str(tmp_path))
