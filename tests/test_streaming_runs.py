"""Runs on images that stay on disk: the same as in memory, survivable, and in little memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metasemi_jax.data.images.files import ImageFiles, check_images
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sources.own_images import load_own_images
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from own_images import own_config, own_flags, write_folder, write_image
from processes import wait_until
from small_runs import ROOT, assert_same_state, main_command, read_log, read_state

# A shell starts what it puts into the background with SIGINT ignored, and the tests may run there.
signal.signal(signal.SIGINT, signal.default_int_handler)

ON_DISK = {'data__memory_budget': 100, 'data__num_workers': 1}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('mine'), labeled=(6, 5), unlabeled=20, test=5, val=3)


def test_a_run_from_disk_is_the_run_from_memory(folder, tmp_path):
    """Batches, statistics and evaluations, bit for bit."""
    statistics = {'data__mean': (), 'data__std': (), 'model__name': 'conv_small'}
    train_and_evaluate(own_config(folder, **statistics), tmp_path / 'memory')
    experiment = build_experiment(own_config(folder, **statistics, **ON_DISK), make_mesh())
    assert '8×8×3 pixels from disk' in experiment.description
    assert ' 6 validation, 10 test images' in experiment.description
    assert experiment.pipeline.device_data == ()
    train_and_evaluate(own_config(folder, **statistics, **ON_DISK), tmp_path / 'disk')
    assert_same_state(read_state(tmp_path / 'memory'), read_state(tmp_path / 'disk'))
    assert read_log(tmp_path / 'memory') == read_log(tmp_path / 'disk')


def test_the_budget_is_exact(folder):
    count = 11 + 20 + 10 + 6
    inside, beyond = (
        load_own_images(str(folder), image_size=8, memory_budget=count * 8 * 8 * 3 - less) for less in (0, 1)
    )
    assert isinstance(inside.train_images, np.ndarray)
    for name in ('train_images', 'test_images', 'val_images'):
        images = getattr(beyond, name)
        assert isinstance(images, StoredImages)
        np.testing.assert_array_equal(images, getattr(inside, name))
    assert beyond.train_ids.tolist() == inside.train_ids.tolist()


def test_a_small_test_set_is_in_memory(tmp_path):
    data = load_own_images(
        str(write_folder(tmp_path, unlabeled=200, test=1)), image_size=8, memory_budget=32 * 2 * 8 * 8 * 3
    )
    assert isinstance(data.train_images, StoredImages)
    assert isinstance(data.test_images, np.ndarray)


def test_all_bad_files_are_named_before_training(tmp_path):
    folder = write_folder(tmp_path / 'mine')
    write_image(folder / 'unlabeled' / 'cut.jpg', size=(64, 64))
    whole = (folder / 'unlabeled' / 'cut.jpg').read_bytes()
    (folder / 'unlabeled' / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (folder / 'labeled' / 'cat' / '0.png').write_bytes(b'')
    message = (
        r'2 of 21 images cannot be read: labeled/cat/0.png \(not an image, or damaged\), unlabeled/cut.jpg'
    )
    for _ in range(2):  # what is bad is looked into again
        with pytest.raises(UserError, match=message):
            train_and_evaluate(own_config(folder, **ON_DISK), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_good_files_are_checked_once(tmp_path, monkeypatch):
    names = ['a.png', 'b.png', 'c.jpg']
    for i, name in enumerate(names):
        write_image(tmp_path / name, i)
    files, looked_at = ImageFiles(tmp_path, names), []
    real = check_images.__globals__['check_image']
    monkeypatch.setitem(
        check_images.__globals__,
        'check_image',
        lambda path: looked_at.append(Path(path).name) or real(path),
    )
    assert check_images(files, source=str(tmp_path))
    assert sorted(looked_at) == names
    assert check_images(files, source=str(tmp_path))
    assert len(looked_at) == 3
    write_image(tmp_path / 'b.png', 9, channels=1)
    os.utime(tmp_path / 'b.png', ns=(0, 0))
    check_images(files, source=str(tmp_path))
    assert looked_at[3:] == ['b.png']
    (tmp_path / 'c.jpg').unlink()
    with pytest.raises(UserError, match=r'1 of 3 images cannot be read: c.jpg \(No such file'):
        check_images(files, source=str(tmp_path))


def test_grey_images_stay_grey_from_disk(tmp_path):
    folder = write_folder(tmp_path, channels=1)
    data = load_own_images(str(folder), image_size=8, memory_budget=100)
    assert data.image_shape == (8, 8, 1)


def test_a_random_resized_crop_needs_files(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.zeros((6, 8, 8, 3), np.uint8), y=[0, 0, 1, 1, -1, -1])
    config = own_config(tmp_path / 'a.npz', data__crop='resized', data__num_validation=1)
    with pytest.raises(UserError, match=r"data.crop='resized' needs image files"):
        train_and_evaluate(config, tmp_path / 'run')


def children(pid):
    """The processes that `pid` started, and theirs, but for Python's resource tracker."""
    found, parents = [], [pid]
    for parent in parents:
        for path in Path(f'/proc/{parent}/task').glob('*/children'):
            parents.extend(map(int, path.read_text().split()))
    for child in parents[1:]:
        if b'resource_tracker' not in Path(f'/proc/{child}/cmdline').read_bytes():
            found.append(child)
    return found


def is_over(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except FileNotFoundError:
        return True


@pytest.fixture
def running(folder, tmp_path):
    """A run in a session of its own that trains, and its two workers."""
    options = ON_DISK | {'data__num_workers': 2, 'total_steps': 10**6, 'optimizer__milestones': (10**6,)}
    with (tmp_path / 'out').open('w') as out, (tmp_path / 'err').open('w') as err:
        process = subprocess.Popen(
            main_command(f'--workdir={tmp_path}/run', *own_flags(folder, **options)),
            cwd=ROOT,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:

        def begun():
            return process.poll() is not None or 'step 4/' in (tmp_path / 'out').read_text()

        # Where other programs share the machine, compiling takes minutes.
        wait_until(begun, 'it trains', 300)
        workers = children(process.pid)
        assert len(workers) == 2
        yield process, workers, tmp_path
        wait_until(lambda: all(map(is_over, workers)), 'the workers end', 10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_ctrl_c_ends_the_workers_in_silence(running):
    """As in a terminal: every process of the job gets the signal."""
    process, _, folder = running
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    assert (folder / 'err').read_text() == ''
    assert 'SIGINT: saved after step' in (folder / 'out').read_text()


def test_a_kill_leaves_no_worker(running):
    process, workers, _ = running
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: all(map(is_over, workers)), 'the workers end', 10)


def test_a_killed_worker_ends_the_run_in_one_line(running):
    process, workers, folder = running
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(30) == 1
    error = (folder / 'err').read_text()
    assert error.startswith(
        'error: one of 2 processes that decode images was killed, perhaps for want of memory'
    )
    assert error.count('\n') == 1


MEMORY = """
import resource, sys
from metasemi_jax.data.sources.own_images import load_own_images
from metasemi_jax.data.batches.streamed_rows import Pool, StreamedRows
from metasemi_jax.data.sampling import Sampling
import numpy as np

def peak(folder):
    data = load_own_images(folder, image_size=224, memory_budget=10**8)
    sampling = Sampling(np.arange(2), np.arange(2, len(data.train_images)), batch_size=32, seed=0)
    pools = Pool(sampling.labeled, 0), Pool(sampling.unlabeled, 1)
    rows = StreamedRows(data.train_images, pools, sampling, start_step=0, crop=None)
    for i in range(20):
        rows[i]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak(sys.argv[1]), peak(sys.argv[2]))
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Decoded, the second folder's images would take 3 GB."""
    write_image(tmp_path / 'a.jpg', size=(16, 16))
    for name, count in (('few', 700), ('many', 20_000)):
        (tmp_path / name / 'unlabeled').mkdir(parents=True)
        for label in ('cat', 'dog'):
            write_image(tmp_path / name / 'labeled' / label / '1.jpg')
        for i in range(count):
            os.link(tmp_path / 'a.jpg', tmp_path / name / 'unlabeled' / f'{i}.jpg')
    process = subprocess.run(
        [sys.executable, '-c', MEMORY, str(tmp_path / 'few'), str(tmp_path / 'many')],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    few, many = map(int, process.stdout.split()[-2:])
    assert many - few < 40_000  # kB: names, labels and ids of 19,300 images
