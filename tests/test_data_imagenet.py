"""ImageNet from tiny tar files in the real format, prepared by TFDS's own builder, without TensorFlow."""

import io
import json
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from archives import (
    CMYK_NAME,
    IMAGENET_CLASSES,
    PNG_NAME,
    command,
    expect_archives,
    hide_tensorflow,
    tar_bytes,
    write_imagenet,
)
from configs import imagenet as imagenet_config
from metasemi_jax.config.checks import check_config
from metasemi_jax.data.images.decode import decode_square
from metasemi_jax.data.sources.imagenet import load_imagenet
from metasemi_jax.data.sources.imagenet_subsets import subset_file
from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import split_positions
from metasemi_jax.errors import UserError
from small_runs import ROOT, contents

NAMES = 'imagenet2012,imagenet2012_subset'


def expect(monkeypatch, folder):
    for name in NAMES.split(','):
        expect_archives(monkeypatch, name, folder)


def load(root, **options):
    options = {'image_size': 28, 'resize': 32} | options
    return load_imagenet(data_dir=str(root / 'tfds'), manual_dir=str(root / 'originals'), **options)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """(its folder, the files in the archives, the dataset)."""
    root = tmp_path_factory.mktemp('imagenet')
    files = write_imagenet(root / 'originals')
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_tensorflow(monkeypatch)
        expect(monkeypatch, root / 'originals')
        yield root, files, load(root)


def test_contents_are_those_of_the_archive_image_by_image(prepared):
    root, files, data = prepared
    for split in ('train', 'validation'):
        stored = {
            example['file_name'].decode(): example
            for example in tfds.data_source(
                'imagenet2012',
                split=split,
                data_dir=root / 'tfds',
                download=False,
                decoders={'image': tfds.decode.SkipDecoding()},
            )
        }
        assert stored.keys() == files[split].keys()
        for name, content in files[split].items():
            if name not in (CMYK_NAME, PNG_NAME):
                assert stored[name]['image'] == content
    labels = dict(zip(data.train_ids.tolist(), data.train_labels.tolist(), strict=True))
    assert {name: data.class_names[label] for name, label in labels.items()} == {
        name: name.partition('_')[0] for name in files['train']
    }
    assert np.bincount(data.train_labels)[np.bincount(data.train_labels) > 0].tolist() == [6, 7, 7]
    assert data.num_classes == 1000
    # TFDS keeps the validation labels in the order of the files' names.
    official = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
    assert sorted(data.class_names[k] for k in data.test_labels) == sorted(official[:7])


def test_odd_images_become_rgb_jpegs(prepared):
    root, files, _ = prepared
    source = tfds.data_source(
        'imagenet2012', split='train', data_dir=root / 'tfds', decoders={'image': tfds.decode.SkipDecoding()}
    )
    stored = {example['file_name'].decode(): example['image'] for example in source}
    for name in (CMYK_NAME, PNG_NAME):
        image = Image.open(io.BytesIO(stored[name]))
        assert (image.format, image.mode) == ('JPEG', 'RGB')
        expected = np.asarray(Image.open(io.BytesIO(files['train'][name])).convert('RGB')).astype(int)
        assert np.abs(np.asarray(image) - expected).mean() < 2


def test_images_are_decoded_from_the_records(prepared):
    _, files, data = prepared
    for images, ids in ((data.train_images, data.train_ids), (data.test_images, None)):
        assert images.shape == (len(images), 28, 28, 3)
        decoded = np.asarray(images)
        if ids is None:
            assert len(decoded) == 7
            continue
        for pixels, name in zip(decoded, ids, strict=True):
            if name not in (CMYK_NAME, PNG_NAME):
                content = io.BytesIO(files['train'][name])
                np.testing.assert_array_equal(pixels, decode_square(content, 28, resize=32, colour=True))


def test_the_second_load_reads_no_image_and_writes_nothing(prepared, monkeypatch):
    root, _, data = prepared
    monkeypatch.setattr('metasemi_jax.data.sources.imagenet.index_records', None)
    before = contents(root)
    again = load_imagenet(data_dir=str(root / 'tfds'), manual_dir='nowhere', image_size=28)
    assert contents(root) == before
    np.testing.assert_array_equal(again.train_ids, data.train_ids)
    np.testing.assert_array_equal(again.test_labels, data.test_labels)


def test_the_lists_of_labeled_images(prepared, tmp_path):
    root, _, data = prepared
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
    # Cut within a synset, the size being what is expected: only reading finds out.
    train.write_bytes(whole[: len(whole) // 2])
    expect(monkeypatch, originals)
    refused(tmp_path, r'img_train.tar cannot be read as the archive its name says')
    train.write_bytes(whole[:-1])
    refused(tmp_path, r'img_train.tar is damaged: it has')
    train.unlink()
    refused(tmp_path, r'lacks ILSVRC2012_img_train.tar \(\d+ bytes\); get them from https://image-net.org')
    assert not (tmp_path / 'tfds' / 'imagenet2012' / '5.1.0').exists()


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


def test_the_config_trains_without_tensorflow(prepared, tmp_path):
    """Two steps of the real config as a user types it; the images, the width and the batch are small."""
    root, _, _ = prepared
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
