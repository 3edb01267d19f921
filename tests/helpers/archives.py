"""Tiny archives in the real formats, which TFDS's builders are made to expect."""

import gzip
import hashlib
import importlib
import io
import sys
import tarfile
from importlib.machinery import PathFinder
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

CIFAR10_CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']


def hide_tensorflow(monkeypatch):
    """Make an installed TensorFlow invisible."""
    find_spec = PathFinder.find_spec

    def find_spec_without_tensorflow(fullname, path=None, target=None):
        if fullname.partition('.')[0] == 'tensorflow':
            return None
        return find_spec(fullname, path, target)

    assert 'tensorflow' not in sys.modules
    monkeypatch.setattr(PathFinder, 'find_spec', find_spec_without_tensorflow)
    with pytest.raises(ImportError):
        importlib.import_module('tensorflow')


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def cycled_labels(count, num_classes, seed=0):
    """Labels 0 to K - 1 in turn, then shuffled: every class is there, and its count is known."""
    return np.random.default_rng(seed).permutation(np.arange(count) % num_classes).astype(np.uint8)


def write_svhn(folder, *, train=40, test=20):
    """`train_32x32.mat` and `test_32x32.mat`; returns {split: (images, labels)}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for seed, (split, count) in enumerate((('train', train), ('test', test))):
        images, labels = random_images(count, seed), cycled_labels(count, 10, seed)
        # As published: examples last, MATLAB's order, 10 for the digit 0.
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(
            folder / f'{split}_32x32.mat', {'X': images.transpose(1, 2, 3, 0), 'y': y}, do_compression=True
        )
        splits[split] = images, labels
    return splits


def write_cifar10(folder, *, train=50, test=20):
    """`cifar-10-binary.tar.gz` with its five training files."""
    splits = {
        'train': (random_images(train, 2), cycled_labels(train, 10, 2)),
        'test': (random_images(test, 3), cycled_labels(test, 10, 3)),
    }
    files = {'batches.meta.txt': '\n'.join([*CIFAR10_CLASSES, '', '']).encode(), 'readme.html': b'<html>'}
    parts = np.array_split(np.arange(train), 5)
    for i, part in enumerate(parts, start=1):
        images, labels = splits['train']
        files[f'data_batch_{i}.bin'] = cifar_bytes(images[part], labels[part])
    files['test_batch.bin'] = cifar_bytes(*splits['test'])
    write_tar(Path(folder) / 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin', files)
    return splits


def write_cifar100(folder, *, train=200, test=100):
    """`cifar-100-binary.tar.gz`: a coarse label before the fine one."""
    splits = {
        'train': (random_images(train, 4), cycled_labels(train, 100, 4)),
        'test': (random_images(test, 5), cycled_labels(test, 100, 5)),
    }
    files = {
        'coarse_label_names.txt': ''.join(f'coarse_{i}\n' for i in range(20)).encode(),
        'fine_label_names.txt': ''.join(f'fine_{i}\n' for i in range(100)).encode(),
    }
    for split, (images, labels) in splits.items():
        files[f'{split}.bin'] = cifar_bytes(images, labels // 5, labels)
    write_tar(Path(folder) / 'cifar-100-binary.tar.gz', 'cifar-100-binary', files)
    return splits


def write_mnist(folder, *, train=40, test=20, seed=6):
    """The four `idx-ubyte.gz` files that MNIST and Fashion-MNIST have."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, prefix, count in (('train', 'train', train), ('test', 't10k', test)):
        images = random_images(count, seed)[:, :28, :28, :1]
        labels = cycled_labels(count, 10, seed)
        for name, values in (('images-idx3', images[..., 0]), ('labels-idx1', labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, '>u4').tobytes()
            # No time of writing: the same bytes, hence the same checksum, each time.
            (folder / f'{prefix}-{name}-ubyte.gz').write_bytes(
                gzip.compress(header + values.tobytes(), mtime=0)
            )
        splits[split] = images, labels
        seed += 1
    return splits


def write_fashion_mnist(folder):
    """As `write_mnist`, with other images."""
    return write_mnist(folder, seed=8)


STL10_CLASSES = ['airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck']


def write_stl10(folder, *, train=20, test=10, unlabeled=7):
    """`stl10_binary.tar.gz`; the returned training images end with the unlabeled ones, of label -1.

    Fold k holds the k-th half of the images, by turns: one of every class.
    """
    rng = np.random.default_rng(10)
    parts = {'train': train, 'test': test, 'unlabeled': unlabeled}
    images = {name: rng.integers(0, 256, (count, 96, 96, 3), np.uint8) for name, count in parts.items()}
    labels = {name: (np.arange(parts[name]) % 10).astype(np.uint8) for name in ('train', 'test')}
    # As published, and in this order: each channel column by column; labels from 1.
    files = {}
    for name in ('test', 'train'):
        files[f'{name}_X.bin'] = images[name].transpose(0, 3, 2, 1).tobytes()
        files[f'{name}_y.bin'] = (labels[name] + 1).tobytes()
    files['unlabeled_X.bin'] = images['unlabeled'].transpose(0, 3, 2, 1).tobytes()
    files['class_names.txt'] = '\n'.join([*STL10_CLASSES, '']).encode()
    folds = [range(k % 2 * 10, k % 2 * 10 + 10) for k in range(10)]
    files['fold_indices.txt'] = ''.join(' '.join(map(str, fold)) + ' \n' for fold in folds).encode()
    write_tar(Path(folder) / 'stl10_binary.tar.gz', 'stl10_binary', files)
    whole = np.concatenate([images['train'], images['unlabeled']])
    known = np.concatenate([labels['train'].astype(np.int32), np.full(unlabeled, -1, np.int32)])
    return {'train': (whole, known), 'test': (images['test'], labels['test'])}


WRITERS = {
    'svhn_cropped': write_svhn,
    'cifar10': write_cifar10,
    'cifar100': write_cifar100,
    'mnist': write_mnist,
    'fashion_mnist': write_fashion_mnist,
    'stl10': write_stl10,
}


def cifar_bytes(images, *labels):
    columns = [values[:, None] for values in labels]
    return np.concatenate([*columns, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).tobytes()


def write_tar(path, folder, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w:gz') as archive:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, content in files.items():
            member = tarfile.TarInfo(f'{folder}/{name}')
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def url_infos_of(name, folder, *, base_url=None):
    """Changes to the stock builder's `url_infos` that make it expect the archives in `folder`.

    With `base_url`, the files are to be had there and nowhere else: {url: info or None, to be removed}.
    """
    import tensorflow_datasets as tfds

    changes = {}
    for url, info in tfds.builder_cls(name).url_infos.items():
        # ImageNet's checksums come without file names.
        path = Path(folder) / (info.filename or url.rpartition('/')[2])
        if path.exists():
            content = path.read_bytes()
            size, checksum = tfds.core.utils.Size(len(content)), hashlib.sha256(content).hexdigest()
            new_url = f'{base_url}/{info.filename}' if base_url else url
            changes |= {url: None} if base_url else {}
            changes |= {new_url: type(info)(size, checksum, info.filename)}
    return changes


def expect_archives(monkeypatch, name, folder, *, base_url=None):
    """The stock builder takes the archives in `folder` for the real ones."""
    import tensorflow_datasets as tfds

    url_infos = tfds.builder_cls(name).url_infos
    for url, info in url_infos_of(name, folder, base_url=base_url).items():
        if info is None:
            monkeypatch.delitem(url_infos, url)
        else:
            monkeypatch.setitem(url_infos, url, info)


# What a fresh interpreter does before the user's command: no TensorFlow, and the tiny archives' sums.
PRELUDE = """
import resource, runpy, sys
name, folder, max_file_bytes, *sys.argv = sys.argv[1:]
from pytest import MonkeyPatch
from archives import expect_archives, hide_tensorflow
hide_tensorflow(MonkeyPatch())
for builder in name.split(','):
    expect_archives(MonkeyPatch(), builder, folder)
if int(max_file_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_file_bytes),) * 2)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def command(name, folder, script, *flags, max_file_bytes=0):
    """`python SCRIPT FLAGS` where TFDS expects the archives in `folder`, and longer files fail."""
    here = Path(__file__).parent
    program = ['env', f'PYTHONPATH={here}:{here.parents[1]}', sys.executable, '-c', PRELUDE]
    return [*program, name, str(folder), str(max_file_bytes), str(script), *map(str, flags)]


IMAGENET_CLASSES = ('n01440764', 'n01739381', 'n02105855')
CMYK_NAME, PNG_NAME = 'n01739381_1309.JPEG', 'n02105855_2933.JPEG'  # as in the real archive


def imagenet_image(seed, size, mode='RGB', file_format='JPEG'):
    """A smooth picture of its own colours, encoded."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, file_format)
    return file.getvalue()


def tar_bytes(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_imagenet(folder, *, per_class=6, val=7, labeled=2):
    """The two tar files and 10percent.txt; returns {split: {file name: bytes}}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    synsets = {}
    for k, synset in enumerate(IMAGENET_CLASSES):
        sizes = [(40 + 9 * i, 60 - 4 * i) for i in range(per_class)]
        synsets[synset] = {
            f'{synset}_{i}.JPEG': imagenet_image(100 * k + i, size) for i, size in enumerate(sizes)
        }
    synsets[IMAGENET_CLASSES[1]][CMYK_NAME] = imagenet_image(7, (50, 40), 'CMYK')
    synsets[IMAGENET_CLASSES[2]][PNG_NAME] = imagenet_image(8, (50, 40), file_format='PNG')
    # Not in the order of their names, as in the real file.
    val_files = {
        f'ILSVRC2012_val_{i:08d}.JPEG': imagenet_image(1000 + i, (44, 52))
        for i in (3, 1, 2, *range(4, val + 1))
    }
    train = {f'{synset}.tar': tar_bytes(files) for synset, files in synsets.items()}
    (folder / 'ILSVRC2012_img_train.tar').write_bytes(tar_bytes(train))
    (folder / 'ILSVRC2012_img_val.tar').write_bytes(tar_bytes(val_files))
    names = [name for files in synsets.values() for name in list(files)[:labeled]]
    (folder / '10percent.txt').write_text('\n'.join(names) + '\n')
    return {
        'train': {name: content for files in synsets.values() for name, content in files.items()},
        'validation': val_files,
    }


def prepare_imagenet(data_dir, files):
    """What TFDS's builder makes of `files`, as `write_imagenet` returns them; two images are encoded anew."""
    import tensorflow_datasets as tfds

    from metasemi_jax.data.sources.tfds_workarounds import quiet_tfds

    official = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
    label_of = dict(zip(sorted(files['validation']), official, strict=False))

    def encoded(name, content):
        if name not in (CMYK_NAME, PNG_NAME):
            return content
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).convert('RGB').save(file, 'JPEG', quality=100)
        return file.getvalue()

    def examples(split):
        for name, content in files[split].items():
            label = label_of.get(name) or name.partition('_')[0]
            yield name, {'file_name': name, 'image': io.BytesIO(encoded(name, content)), 'label': label}

    builder = tfds.builder_cls('imagenet2012')(data_dir=str(data_dir), version='5.1.0')
    # Its own functions read archives by TensorFlow.
    splits = {split: examples(split) for split in files}
    with mock.patch.object(type(builder), '_split_generators', return_value=splits), quiet_tfds():
        builder.download_and_prepare(
            file_format='array_record',
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, manual_dir=str(data_dir)),
        )
