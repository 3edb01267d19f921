"""How fast SVHN gets from its original archives into memory, measured on generated images.

    python -m benchmarks.data_path                     # 73,257 + 26,032 images, as in SVHN: about a minute
    python -m benchmarks.data_path --num_train=5000 --num_test=1000

Archives in SVHN's format, of smooth colours with a little noise, are read into arrays, once. Then a new
process loads the arrays and copies every byte, first with the files dropped from the system's cache, then
with them in it.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import app, flags

from metasemi_jax.data.sources import tfds_sources
from metasemi_jax.data.sources.registry import load_dataset

_NUM_TRAIN = flags.DEFINE_integer('num_train', 73_257, 'Training images.')
_NUM_TEST = flags.DEFINE_integer('num_test', 26_032, 'Test images.')
_FOLDER = flags.DEFINE_string('folder', None, 'Where the files go for their time; by default below /tmp.')

LOAD = """
import sys, time
start = time.perf_counter()
from metasemi_jax.data.sources.registry import load_dataset
imported = time.perf_counter()
data = load_dataset('svhn_cropped', data_dir=sys.argv[1])
images = [data.train_images.copy(), data.test_images.copy()]
print(imported - start, time.perf_counter() - imported)
"""


class Stage:
    """Wall and processor seconds of the function that it wraps."""

    def __init__(self, function):
        """`function` is called as before."""
        self._function = function
        self.wall = self.cpu = 0.0

    def __call__(self, *args, **kwargs):
        wall, cpu = time.perf_counter(), time.process_time()
        result = self._function(*args, **kwargs)
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu
        return result


def main(argv: list[str]) -> None:
    del argv
    total = _NUM_TRAIN.value + _NUM_TEST.value
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        originals, data_dir = Path(folder, 'originals'), Path(folder, 'tfds')
        write_archives(originals)
        with stages('read_originals', 'from_archives', 'write_cache') as measured:
            load_dataset('svhn_cropped', data_dir=str(data_dir), manual_dir=str(originals))
        cache = data_dir / 'metasemi_jax'
        megabytes = sum(path.stat().st_size for path in cache.rglob('*')) / 1e6
        drop_from_system_cache(cache)
        cold, warm = load(data_dir), load(data_dir)
    print(f'\n{total:,} images of 32×32×3, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n')
    print('| stage | s | s of one core | images/s | images/s a core |\n|---|---|---|---|---|')
    measured['all, once'] = sum_of(measured.values())
    for name, stage in measured.items():
        print(
            f'| {name} | {stage.wall:.1f} | {stage.cpu:.1f} | {total / stage.wall:,.0f} '
            f'| {total / stage.cpu:,.0f} |'
        )
    for name, seconds in (('load, files not in memory', cold), ('load, files in memory', warm)):
        print(f'| {name} | {seconds:.2f} | | {total / seconds:,.0f} | |')
    print(f'\nThe decoded images are {megabytes:,.0f} MB. Loading copies them all; imports are not counted.')


@contextmanager
def stages(*names: str) -> Iterator[dict[str, Stage]]:
    """Measure functions that `tfds_sources` calls."""
    measured = {name: Stage(getattr(tfds_sources, name)) for name in names}
    for name, stage in measured.items():
        setattr(tfds_sources, name, stage)
    yield measured


def sum_of(parts: Iterator[Stage]) -> Stage:
    whole = Stage(None)
    for part in parts:
        whole.wall, whole.cpu = whole.wall + part.wall, whole.cpu + part.cpu
    return whole


def load(data_dir: Path) -> float:
    output = subprocess.run(
        [sys.executable, '-c', LOAD, str(data_dir)], check=True, capture_output=True, text=True
    ).stdout
    return float(output.split()[1])


def drop_from_system_cache(folder: Path) -> None:
    for path in folder.rglob('*.npy'):
        with path.open('rb') as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_archives(folder: Path) -> None:
    """`train_32x32.mat` and `test_32x32.mat`, and TFDS made to expect them."""
    import tensorflow_datasets as tfds
    from scipy.io import savemat

    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (('train', _NUM_TRAIN.value), ('test', _NUM_TEST.value)):
        images = smooth_images(count, rng).transpose(1, 2, 3, 0)
        labels = rng.integers(1, 11, (count, 1), dtype=np.uint8)
        savemat(folder / f'{split}_32x32.mat', {'X': images, 'y': labels}, do_compression=True)
    url_infos = tfds.builder_cls('svhn_cropped').url_infos
    for url, info in url_infos.items():
        path = folder / info.filename
        if path.exists():
            with path.open('rb') as file:
                sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
            url_infos[url] = type(info)(tfds.core.utils.Size(path.stat().st_size), sha256, info.filename)


def smooth_images(count: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [count, 32, 32, 3]: a gradient from corner to corner, and noise of ±3 grey levels."""
    corners = rng.uniform(20, 235, (4, count, 1, 1, 3)).astype(np.float32)
    y = np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
    x = y.transpose(1, 0, 2)
    images = np.empty((count, 32, 32, 3), np.uint8)
    for part in np.array_split(np.arange(count), max(1, count // 1000)):
        a, b, c, d = corners[:, part]
        smooth = (a * (1 - x) + b * x) * (1 - y) + (c * (1 - x) + d * x) * y
        images[part] = smooth + rng.integers(-3, 4, smooth.shape)
    return images


if __name__ == '__main__':
    app.run(main)
