"""How fast images come from disk to the training loop, and in how much memory.

    python -m benchmarks.streaming                                    # about three to five minutes
    python -m benchmarks.streaming --device_images_per_second=7000    # and how many cores that takes
    python -m benchmarks.streaming --num_images=182000 --memory_only  # 20 GB of names; checks them all

Makes JPEGs of ImageNet's usual size (500×375 pixels, about 110 kB, of smooth colours with noise), then takes
batches of random resized crops of 224×224 from worker processes, as training on ImageNet does, without a
network or a device. Rates are medians over windows; the numbers of workers take turns. Then a real run of
main.py on as many names of these files, hard links, has the memory of all its processes added up.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from metasemi_jax.data.batches.streamed_rows import HostCrop, Pool, StreamedRows
from metasemi_jax.data.batches.workers import stream
from metasemi_jax.data.images.files import ImageFiles
from metasemi_jax.data.images.parallel import available_cores
from metasemi_jax.data.images.random_resized_crop import CropRange
from metasemi_jax.data.images.stored import StoredImages

_WORKERS = flags.DEFINE_list('workers', ['0', '1', '2', '4'], 'Numbers of worker processes.')
_WINDOWS = flags.DEFINE_integer('windows', 5, 'Windows for each of them.')
_SECONDS = flags.DEFINE_float('seconds', 5, 'Of a window.')
_NUM_FILES = flags.DEFINE_integer('num_files', 500, 'JPEGs that are made.')
_NUM_IMAGES = flags.DEFINE_integer('num_images', 5000, 'Names of them in the run that measures memory.')
_MEMORY_ONLY = flags.DEFINE_bool('memory_only', False, 'Leave the rates out.')
_DEVICE_RATE = flags.DEFINE_float(
    'device_images_per_second',
    None,
    'What one device takes, labeled and unlabeled; assumed, not measured.',
)
_FOLDER = flags.DEFINE_string('folder', None, 'Where the files go for their time; by default below /tmp.')

ROOT = Path(__file__).parent.parent
SIZE = 224
NOISE = 18.0  # grey levels
CROP = HostCrop(CropRange((0.1, 1.0), (0.8, 1.25)), flip=True)
RUN = {
    'data.image_size': SIZE,
    'data.crop': 'resized',
    'data.num_workers': 2,
    'model.name': 'conv_small',
    'model.width': 2,
    'batch_size': 16,
    'total_steps': 30,
    'eval_every': 30,
    'checkpoint_every': 30,
    'optimizer.warmup_steps': 5,
    'optimizer.milestones': (20, 25),
    'eval_batch_size': 64,
}


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        sizes = write_images(Path(folder, 'originals'), _NUM_FILES.value)
        print(
            f'{_NUM_FILES.value} JPEGs of 500×375, {sum(sizes) / len(sizes) / 1000:.0f} kB each; '
            f'{available_cores()} cores, load average {os.getloadavg()[0]:.1f}\n',
            flush=True,
        )
        if not _MEMORY_ONLY.value:
            show_rates(Path(folder, 'originals'))
        show_memory(Path(folder), _NUM_IMAGES.value)


def show_rates(folder: Path) -> None:
    rates = measure(folder, [int(count) for count in _WORKERS.value])
    alone = statistics.median(wall for wall, _ in rates[1]) if 1 in rates else None
    print('| workers | images/s, median | least | most | of one worker | images/s of processor time |')
    print('|---|---|---|---|---|---|')
    for count, windows in rates.items():
        walls = [wall for wall, _ in windows]
        median = statistics.median(walls)
        name = f'0 ({available_cores()} threads)' if count == 0 else count
        ratio = f'{median / alone:.2f}' if alone else ''
        per_core = statistics.median(processor for _, processor in windows)
        print(
            f'| {name} | {median:,.0f} | {min(walls):,.0f} | {max(walls):,.0f} | {ratio} | {per_core:,.0f} |'
        )
    per_core = decode_rate(folder)
    print(f'\nOne core that does nothing else decodes and crops {per_core:,.0f} images/s.')
    if _DEVICE_RATE.value:
        print(
            f'A device that takes {_DEVICE_RATE.value:,.0f} images/s (assumed) needs '
            f'{_DEVICE_RATE.value / per_core:.0f} such cores.'
        )
    sys.stdout.flush()


def measure(folder: Path, counts: list[int]) -> dict[int, list[tuple[float, float]]]:
    """images/s of each window, and a second of processor time, workers and this process: {workers: [...]}."""
    rates = {count: [] for count in counts}
    for _, count in itertools.product(range(_WINDOWS.value), counts):
        elements = stream(rows_of(folder), num_workers=count)
        # What the workers made while they started is not part of the pace.
        for _ in range(4 * max(count, available_cores())):
            next(elements)
        start, busy, images = time.perf_counter(), tree_seconds(os.getpid()), 0
        while time.perf_counter() - start < _SECONDS.value:
            images += len(next(elements))
        busy = tree_seconds(os.getpid()) - busy
        rates[count].append((images / (time.perf_counter() - start), images / busy))
        elements.close()
    return rates


def decode_rate(folder: Path) -> float:
    """images/s of processor time, in this process."""
    rows, images = rows_of(folder), 0
    start = time.process_time()
    for i in itertools.count():
        images += len(rows[i])
        if time.process_time() - start > _SECONDS.value:
            return images / (time.process_time() - start)


def rows_of(folder: Path) -> StreamedRows:
    names = sorted(path.name for path in folder.iterdir())
    images = StoredImages(ImageFiles(folder, names), len(names), SIZE, colour=True)
    tenth = len(names) // 10
    pools = Pool(np.arange(tenth), 0), Pool(np.arange(tenth, len(names)), 1)
    return StreamedRows(
        images, pools, seed=0, start_step=0, batch_size=512, first_row=0, num_rows=512, crop=CROP
    )


def show_memory(folder: Path, num_images: int) -> None:
    originals = sorted((folder / 'originals').iterdir())
    bytes_in_all = sum(originals[i % len(originals)].stat().st_size for i in range(num_images))
    for i in range(num_images):
        part = f'labeled/class{i % 10}' if i < num_images // 10 else f'unlabeled/{i % 100:02d}'
        (folder / 'mine' / part).mkdir(parents=True, exist_ok=True)
        os.link(originals[i % len(originals)], folder / 'mine' / part / f'image_{i:08d}.JPEG')
    command = [
        sys.executable,
        str(ROOT / 'main.py'),
        f'--config={ROOT}/configs/folder.py',
        f'--config.data.path={folder}/mine',
        f'--workdir={folder}/run',
        *(f'--config.{name}={value}' for name, value in RUN.items()),
    ]
    environment = os.environ | {'XDG_CACHE_HOME': str(folder / 'cache')}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak, processes = 0, 0
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        processes = max(processes, len(tree(process.pid)))
        time.sleep(0.2)
    print(
        f'\nmain.py on {num_images:,} names, {bytes_in_all / 1e9:.1f} GB: {processes} processes took '
        f'{peak / 1e6:,.0f} MB together at most (proportional set size), in '
        f'{time.perf_counter() - start:.0f} s with the check of all files; exit code {process.returncode}'
    )


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    pids = [pid]
    for parent in pids:
        for children in Path(f'/proc/{parent}/task').glob('*/children'):
            try:
                pids.extend(map(int, children.read_text().split()))
            except OSError:
                continue
    return pids


def tree_seconds(pid: int) -> float:
    """Processor time of a process and all that it started."""
    ticks = 0
    for each in tree(pid):
        try:
            fields = Path(f'/proc/{each}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def tree_bytes(pid: int) -> int:
    """Memory of a process and all that it started, what they share counted once."""
    kilobytes = 0
    for each in tree(pid):
        try:
            text = Path(f'/proc/{each}/smaps_rollup').read_text()
        except OSError:
            continue
        kilobytes += int(text.partition('Pss:')[2].split()[0]) if 'Pss:' in text else 0
    return kilobytes * 1024


def write_images(folder: Path, count: int) -> list[int]:
    """Their sizes in bytes."""
    folder.mkdir()
    sizes = []
    for i in range(count):
        rng = np.random.default_rng(i)
        smooth = Image.fromarray(rng.integers(20, 236, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(smooth.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        # Noise of the grain of a photograph: half of it in single pixels, half in blobs of some.
        fine = rng.normal(0, NOISE, pixels.shape)
        blobs = Image.fromarray(rng.normal(0, NOISE, (94, 125)).astype(np.float32)).resize((500, 375))
        image = Image.fromarray((pixels + fine + np.asarray(blobs)[..., None]).clip(0, 255).astype(np.uint8))
        image.save(folder / f'{i:06d}.JPEG', quality=90)
        sizes.append((folder / f'{i:06d}.JPEG').stat().st_size)
    return sizes


if __name__ == '__main__':
    app.run(main)
