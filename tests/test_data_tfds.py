"""SVHN, CIFAR, MNIST and STL-10 from tiny archives in the real formats, read here and by TFDS's builders."""

import functools
import importlib
import io
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import archives
from archives import WRITERS, expect_archives, hide_tensorflow
from metasemi_jax.config.checks import check_config
from metasemi_jax.data.identity import data_sha256
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sources import tfds_sources
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.data.sources.stl10_folds import fold_file
from metasemi_jax.data.sources.tfds_recipes import RECIPES
from metasemi_jax.data.sources.tfds_store import data_root
from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import class_balanced_split, split_positions
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from small_runs import ROOT, contents

CONFIGS = {name: name for name in WRITERS} | {'svhn_cropped': 'svhn'}
CLASSES = {
    'svhn_cropped': tuple('0123456789'),
    'cifar10': tuple(archives.CIFAR10_CLASSES),
    'cifar100': tuple(f'fine_{i}' for i in range(100)),
    'mnist': tuple('0123456789'),
    'fashion_mnist': (
        *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat'),
        *('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'),
    ),
    'stl10': tuple(archives.STL10_CLASSES),
}


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    hide_tensorflow(monkeypatch)


@pytest.fixture
def expect(monkeypatch):
    return functools.partial(expect_archives, monkeypatch)


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
    """{name: (folder of the archives, {split: (images, labels)})}."""
    folders = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    return {name: (folder, WRITERS[name](folder)) for name, folder in folders.items()}


@pytest.fixture(params=WRITERS)
def loaded(request, originals, expect, tmp_path):
    """(name, the archive's contents, the loaded dataset, data_dir)."""
    folder, splits = originals[request.param]
    expect(request.param, folder)
    data = load_dataset(request.param, data_dir=str(tmp_path / 'tfds'), manual_dir=str(folder))
    return request.param, splits, data, tmp_path / 'tfds'


@pytest.fixture
def prepared(loaded, originals):
    """As `loaded`, and TFDS's builder has written the dataset, as for images that stay on disk."""
    name, _, _, data_dir = loaded
    assert not (data_dir / name).exists()
    load_dataset(name, data_dir=str(data_dir), manual_dir=str(originals[name][0]), on_disk=True)
    return loaded


def test_contents_are_the_archives_image_by_image(loaded):
    name, splits, data, _ = loaded
    for split in ('train', 'test'):
        images, labels = splits[split]
        loaded_images = getattr(data, f'{split}_images')
        loaded_labels = getattr(data, f'{split}_labels')
        assert (loaded_images.dtype, loaded_labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(loaded_images, images)
        np.testing.assert_array_equal(loaded_labels, labels)
        np.testing.assert_array_equal(np.bincount(loaded_labels + 1), np.bincount(labels.astype(int) + 1))
    assert data.train_ids.tolist() == expected_ids(name, splits)
    assert data.train_ids.tolist() == sorted(data.train_ids)
    assert data.class_names == CLASSES[name]
    assert isinstance(data.train_images, np.memmap)
    assert not data.train_images.flags.writeable


def expected_ids(name, splits):
    digits, labels = RECIPES[name].id_digits, splits['train'][1]
    count = np.count_nonzero(labels.astype(int) >= 0)
    train = [f'train_{i:0{digits}d}' for i in range(count)]
    return train + [f'unlabelled_{i:0{digits}d}' for i in range(len(labels) - count)]


def test_what_is_prepared_is_tfds_own(prepared):
    """Any program that uses TFDS may read it, and finds what the archive says."""
    name, splits, _, data_dir = prepared
    for split in ('train', 'test'):
        source = tfds.data_source(
            name,
            split=split,
            data_dir=data_dir,
            download=False,
            decoders={'image': tfds.decode.SkipDecoding()},
        )
        images, labels = splits[split]
        known = labels.astype(int) >= 0
        assert len(source) == np.count_nonzero(known)
        if not RECIPES[name].has_ids:
            # By their pixels: TFDS does not say which image is which.
            there = {np.asarray(Image.open(io.BytesIO(e['image']))).tobytes(): e['label'] for e in source}
            expected = zip(images[known], labels[known], strict=True)
            assert there == {image.tobytes(): label for image, label in expected}
            continue
        stored = {example['id'].decode(): example for example in source}
        assert list(stored) != sorted(stored)  # TFDS shuffles by a hash; ours is ordered by id
        for i, label in enumerate(splits[split][1]):
            example = stored[f'{split}_{i:0{RECIPES[name].id_digits}d}']
            assert example['label'] == label
            if name == 'cifar100':
                assert example['coarse_label'] == label // 5


def test_pools_are_disjoint_and_together_the_training_split(loaded):
    _, _, data, _ = loaded
    k = data.num_classes
    ids = class_balanced_split(data.train_labels, data.train_ids, k, num_classes=k, seed=0)
    labeled, unlabeled = split_positions(data.train_ids, ids)
    assert not set(labeled) & set(unlabeled)
    assert sorted([*labeled, *unlabeled]) == list(range(len(data.train_labels)))
    np.testing.assert_array_equal(np.bincount(data.train_labels[labeled]), np.ones(k))


def test_archives_and_what_tfds_prepared_of_them_give_the_same_arrays(prepared):
    """Bytes, order, ids and types: the pools of a run do not depend on the way."""
    name, _, data, data_dir = prepared
    shutil.rmtree(data_dir / 'metasemi_jax')
    shutil.rmtree(data_dir / 'downloads', ignore_errors=True)
    decoded = load_dataset(name, data_dir=str(data_dir))
    for one, other in zip(decoded, data, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert np.asarray(one).dtype == np.asarray(other).dtype


def test_from_disk_as_from_memory(prepared, monkeypatch):
    """Where the budget says so, the images stay in the records: the same ones, under the same ids."""
    name, _, data, data_dir = prepared
    needed = data.train_images.nbytes + data.test_images.nbytes
    # From the index alone, which `prepared` has written.
    monkeypatch.setattr(tfds_sources, 'decode', None)
    streamed = load_dataset(name, data_dir=str(data_dir), memory_budget=needed - 1)
    assert isinstance(streamed.train_images, StoredImages)
    assert streamed.image_shape == data.image_shape
    for one, other in zip(streamed, data, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert isinstance(load_dataset(name, data_dir=str(data_dir), on_disk=True).train_images, StoredImages)
    again = load_dataset(name, data_dir=str(data_dir), memory_budget=needed)
    assert isinstance(again.train_images, np.memmap)
    assert data_sha256(again, []) == data_sha256(streamed, [])


def test_the_second_load_needs_the_cache_alone(loaded, monkeypatch):
    name, splits, _, data_dir = loaded
    assert not (data_dir / name).exists()
    shutil.rmtree(data_dir / 'downloads', ignore_errors=True)
    monkeypatch.setattr(tfds_sources, 'stock_builder', None)
    before = contents(data_dir)
    again = load_dataset(name, data_dir=str(data_dir), manual_dir='nowhere')
    np.testing.assert_array_equal(again.train_images, splits['train'][0])
    assert contents(data_dir) == before


def test_a_damaged_cache_is_made_again(loaded, originals, capsys):
    name, splits, _, data_dir = loaded
    path = data_dir / 'metasemi_jax' / name / RECIPES[name].version / 'train_images.npy'
    stale = path.parent.with_name(f'.{path.parent.name}.incomplete')
    stale.mkdir()
    (stale / 'train_images.npy').write_text('what a kill left')
    for damage in (lambda content: content[:-1], lambda content: b'', lambda content: b'\x93NUMPZ'):
        path.write_bytes(damage(path.read_bytes()))
        capsys.readouterr()
        again = load_dataset(name, data_dir=str(data_dir), manual_dir=str(originals[name][0]))
        np.testing.assert_array_equal(again.train_images, splits['train'][0])
        assert f'{name}: read ' in capsys.readouterr().out
        assert not stale.exists()


def test_a_damaged_prepared_file_ends_in_one_line(prepared):
    name, _, _, data_dir = prepared
    shutil.rmtree(data_dir / 'metasemi_jax')
    path = next((data_dir / name).rglob('*-train.array_record*'))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        UserError, match=rf'^{name}: .*{RECIPES[name].version} is damaged \(.*delete that folder'
    ) as e:
        load_dataset(name, data_dir=str(data_dir))
    assert '\n' not in str(e.value)
    assert list((data_dir / 'metasemi_jax' / name).iterdir()) == [cache_lock(data_dir, name)]


def test_files_of_another_format_are_refused(prepared):
    name, _, _, data_dir = prepared
    shutil.rmtree(data_dir / 'metasemi_jax')
    info = next((data_dir / name).rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', 'tfrecord').replace('ARRAY_RECORD', 'TFRECORD'))
    with pytest.raises(UserError, match=r'holds no array_record files \(tfrecord\).*data_dir='):
        load_dataset(name, data_dir=str(data_dir))
    info.unlink()
    with pytest.raises(UserError, match=r'holds no array_record files'):
        load_dataset(name, data_dir=str(data_dir))
    assert not (data_dir / 'metasemi_jax').exists()


def cache_lock(data_dir, name):
    return data_dir / 'metasemi_jax' / name / f'{RECIPES[name].version}.lock'


def test_recipes_are_of_the_stock_builders():
    sizes = {}
    for name, recipe in RECIPES.items():
        builder = tfds.builder_cls(name)
        assert str(builder.VERSION) == recipe.version
        sizes |= {
            info.filename: info.size for info in builder.url_infos.values() if info.filename in recipe.files
        }
    assert sizes == {
        'train_32x32.mat': 182040794,
        'test_32x32.mat': 64275384,
        'cifar-10-binary.tar.gz': 170052171,
        'cifar-100-binary.tar.gz': 168513733,
        'train-images-idx3-ubyte.gz': 26421880,
        'train-labels-idx1-ubyte.gz': 29515,
        't10k-images-idx3-ubyte.gz': 4422102,
        't10k-labels-idx1-ubyte.gz': 5148,
        'stl10_binary.tar.gz': 2640397119,
    }


def test_mnist_and_fashion_mnist_in_folders_of_their_names(originals, expect, tmp_path):
    """Their files are called alike."""
    for name in ('mnist', 'fashion_mnist'):
        expect(name, originals[name][0])
        shutil.copytree(originals[name][0], tmp_path / 'originals' / name)
        data = load_dataset(name, data_dir=str(tmp_path), manual_dir=str(tmp_path / 'originals'))
        np.testing.assert_array_equal(data.test_images, originals[name][1]['test'][0])


def test_the_folds_of_stl10(originals, expect, tmp_path):
    folder, splits = originals['stl10']
    expect('stl10', folder)
    data = load_dataset('stl10', data_dir=str(tmp_path), manual_dir=str(folder))
    labels = splits['train'][1]
    for k in (0, 1, 9):
        named = read_split_file(str(fold_file(f'fold_{k}.txt', data_dir=str(tmp_path))), data.train_ids)
        assert named == [f'train_{i:06d}' for i in range(k % 2 * 10, k % 2 * 10 + 10)]
        labeled, unlabeled = split_positions(data.train_ids, named)
        assert labels[labeled].tolist() == list(range(10))
        # The other folds and the images that have no label.
        assert len(unlabeled) == 17
    # Prepared by another program: the archive has them.
    shutil.rmtree(tmp_path / 'metasemi_jax' / 'stl10' / 'folds')
    with pytest.raises(
        UserError, match=r'data.split_file=fold_3.txt: the folds of STL-10 are in stl10_binary'
    ):
        fold_file('fold_3.txt', data_dir=str(tmp_path))
    path = fold_file('fold_3.txt', data_dir=str(tmp_path), manual_dir=str(folder))
    assert path.read_text().split() == [str(i) for i in range(10, 20)]


def test_the_default_folder_is_tfds_own(monkeypatch, tmp_path):
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
    assert str(data_root('')) == tfds.core.constants.DATA_DIR
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    assert data_root('') == tmp_path


def test_the_default_manual_dir_is_tfds_own(originals, expect, tmp_path):
    folder, splits = originals['cifar10']
    expect('cifar10', folder)
    shutil.copytree(folder, tmp_path / 'downloads' / 'manual')
    data = load_dataset('cifar10', data_dir=str(tmp_path))
    np.testing.assert_array_equal(data.train_images, splits['train'][0])


def test_loading_from_the_cache_imports_no_tfds(originals, expect, tmp_path):
    expect('cifar10', originals['cifar10'][0])
    load_dataset('cifar10', data_dir=str(tmp_path), manual_dir=str(originals['cifar10'][0]))
    script = (
        'import sys; from metasemi_jax.data.sources.registry import load_dataset; '
        'load_dataset("cifar10", data_dir=sys.argv[1]); print(sorted(sys.modules))'
    )
    process = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for module in ('tensorflow_datasets', 'tensorflow', 'scipy.io', 'PIL'):
        assert f"'{module}'" not in process.stdout
    assert process.stderr == ''


def real_config(name, folder, data_dir):
    """The config with as many labels as the tiny archives allow."""
    config = importlib.import_module(f'configs.{CONFIGS[name]}').get_config()
    # STL-10's config names a fold, which has ten here.
    num_labels = 100 if name == 'cifar100' else 10
    fields = {'data.num_labels': num_labels, 'data.data_dir': str(data_dir), 'data.manual_dir': str(folder)}
    config.update_from_flattened_dict(fields | {'batch_size': 4, 'eval_batch_size': 20, 'model.width': 2})
    return config


@pytest.mark.parametrize('name', WRITERS)
def test_the_real_config_fits_its_data(name, originals, expect, tmp_path):
    folder, splits = originals[name]
    expect(name, folder)
    config = real_config(name, folder, tmp_path)
    check_config(config)
    experiment = build_experiment(config, make_mesh())
    num_labels, rest = config.data.num_labels, len(splits['train'][1]) - config.data.num_labels
    counts = f'{num_labels} labeled, {rest} unlabeled, {len(splits["test"][1])} test images'
    assert experiment.description.startswith(f'{name}: {counts} of {len(CLASSES[name])} classes; ')
    assert len(experiment.split.labeled) == num_labels
    known = set(np.flatnonzero(splits['train'][1].astype(int) >= 0))
    assert {int(name.rpartition('_')[2]) for name in experiment.split.labeled} <= known


@pytest.mark.parametrize('name', ['svhn_cropped', 'stl10'])
def test_two_steps_of_the_real_config(name, originals, expect, tmp_path, capfd):
    folder, splits = originals[name]
    expect(name, folder)
    config = real_config(name, folder, tmp_path / 'tfds')
    config.total_steps = 2
    if name == 'stl10':
        # A step of ConvLarge at 96×96 pixels takes its time.
        config.model.name = 'conv_small'
    results = train_and_evaluate(config, tmp_path / 'run')
    assert 0 <= results['test_error_last'] <= 100
    out, err = capfd.readouterr()
    assert err == ''
    rest = len(splits['train'][1]) - 10
    assert f'{name}: 10 labeled, {rest} unlabeled, {len(splits["test"][1])} test images' in out
    assert len((tmp_path / 'run' / 'labeled_ids.txt').read_text().split()) == 10
    # The data may move: its folder is no setting of the run.
    config.data.data_dir = config.data.manual_dir = ''
    assert train_and_evaluate(config, tmp_path / 'run') == json.loads(
        (tmp_path / 'run' / 'results.json').read_text()
    )


def test_the_images_go_to_the_device_as_they_are(originals, expect, tmp_path):
    folder, splits = originals['svhn_cropped']
    expect('svhn_cropped', folder)
    data = load_dataset('svhn_cropped', data_dir=str(tmp_path), manual_dir=str(folder))
    np.testing.assert_array_equal(jax.numpy.asarray(data.train_images), splits['train'][0])
