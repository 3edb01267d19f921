"""Tiny archives in the real formats, which TFDS's builders are made to expect."""

import hashlib
import importlib
import io
import sys
import tarfile
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
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


WRITERS = {'svhn_cropped': write_svhn, 'cifar10': write_cifar10, 'cifar100': write_cifar100}


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
        path = Path(folder) / info.filename
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
tests, name, folder, max_file_bytes, *sys.argv = sys.argv[1:]
sys.path[:0] = [tests, tests.rpartition('/')[0]]
from pytest import MonkeyPatch
from archives import expect_archives, hide_tensorflow
hide_tensorflow(MonkeyPatch())
expect_archives(MonkeyPatch(), name, folder)
if int(max_file_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_file_bytes),) * 2)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def command(name, folder, script, *flags, max_file_bytes=0):
    """`python SCRIPT FLAGS` where TFDS expects the archives in `folder`, and longer files fail."""
    prelude = [sys.executable, '-c', PRELUDE, str(Path(__file__).parent), name, str(folder)]
    return [*prelude, str(max_file_bytes), str(script), *map(str, flags)]
