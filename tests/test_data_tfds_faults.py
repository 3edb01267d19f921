"""SVHN and CIFAR where something is wrong: one line, soon, and nothing half-written."""

import contextlib
import functools
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from archives import (
    WRITERS,
    command,
    expect_archives,
    hide_tensorflow,
    write_svhn,
    write_tar,
)
from metasemi_jax.data.sources.download_watch import watch_downloads
from metasemi_jax.data.sources.original_files import Original, check_network
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.data.sources.tfds_workarounds import network_patience
from metasemi_jax.errors import UserError
from metasemi_jax.files import lock
from small_runs import ROOT, contents, run_main

FILES = {
    'svhn_cropped': ('train_32x32.mat', 182040794, 'http://ufldl.stanford.edu/housenumbers/train_32x32.mat'),
    'cifar10': (
        'cifar-10-binary.tar.gz',
        170052171,
        'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    ),
    'cifar100': (
        'cifar-100-binary.tar.gz',
        168513733,
        'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
    ),
    'mnist': (
        'train-images-idx3-ubyte.gz',
        9912422,
        'https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz',
    ),
    'fashion_mnist': (
        'train-images-idx3-ubyte.gz',
        26421880,
        'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz',
    ),
    'stl10': (
        'stl10_binary.tar.gz',
        2640397119,
        'http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz',
    ),
}
LOCKS = {f'{version}.lock' for version in ('3.1.0', '3.0.2', '3.0.1', '1.0.0')}


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    hide_tensorflow(monkeypatch)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was used')

    monkeypatch.setattr(requests.Session, 'request', refuse)


@pytest.fixture
def expect(monkeypatch):
    return functools.partial(expect_archives, monkeypatch)


@pytest.fixture
def folders(tmp_path):
    """data_dir, which is not there yet, and the archives' folder."""
    return tmp_path / 'tfds', tmp_path / 'originals'


def fails(name, data_dir, manual_dir=''):
    """The one line; within a second, TFDS's import not counted."""
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        load_dataset(name, data_dir=str(data_dir), manual_dir=str(manual_dir))
    assert '\n' not in str(error.value)
    return str(error.value), time.monotonic() - start


def assert_nothing_half_written(data_dir):
    """Neither prepared files nor decoded ones, nor downloads; a lock and empty folders may be there."""
    assert {path.name for path in data_dir.rglob('*') if path.is_file()} <= LOCKS
    assert not [path for path in data_dir.rglob('*') if 'incomplete' in path.name or '.tmp.' in path.name]


@pytest.mark.parametrize('name', WRITERS)
def test_a_missing_archive(name, folders, no_network):
    data_dir, manual_dir = folders
    manual_dir.mkdir()
    message, seconds = fails(name, data_dir, manual_dir)
    assert seconds < 1
    file, num_bytes, url = FILES[name]
    assert message.startswith(f'{name}: data.manual_dir={manual_dir} lacks {file} ({num_bytes} bytes, {url})')
    assert not data_dir.exists()
    assert (
        f'data.manual_dir={manual_dir / "no"}: there is no such folder'
        in fails(name, data_dir, manual_dir / 'no')[0]
    )


@pytest.mark.parametrize('default', [False, True])
@pytest.mark.parametrize('name', WRITERS)
def test_a_truncated_archive(name, default, folders, expect, no_network):
    data_dir, manual_dir = folders
    if default:
        manual_dir = data_dir / 'downloads' / 'manual'
    WRITERS[name](manual_dir)
    expect(name, manual_dir)
    file, _, url = FILES[name]
    path = manual_dir / file
    whole = path.stat().st_size
    os.truncate(path, whole - 7)
    before = contents(manual_dir)
    message, seconds = fails(name, data_dir, '' if default else manual_dir)
    assert seconds < 1
    assert message.startswith(f'{name}: {path} is damaged: it has {whole - 7} bytes')
    assert f'{whole} bytes: get it again from {url}' in message
    assert contents(manual_dir) == before
    assert (contents(data_dir) == before) if default else not data_dir.exists()


@pytest.mark.parametrize('name', WRITERS)
def test_a_wrong_checksum(name, folders, expect, no_network):
    data_dir, manual_dir = folders
    WRITERS[name](manual_dir)
    expect(name, manual_dir)
    path = manual_dir / FILES[name][0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message, seconds = fails(name, data_dir, manual_dir)
    assert seconds < 1
    assert message.startswith(f'{name}: {path} is damaged: its SHA-256 is ')
    assert f'{len(content)} bytes: get it again from {FILES[name][2]}' in message
    assert not data_dir.exists()


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('damage', [lambda content: content[: len(content) // 2], lambda content: b'<html>'])
def test_an_archive_that_cannot_be_read(name, damage, folders, expect, no_network):
    """Its checksum is right: what was published is broken, or the checksum is."""
    data_dir, manual_dir = folders
    WRITERS[name](manual_dir)
    path = manual_dir / FILES[name][0]
    path.write_bytes(damage(path.read_bytes()))
    expect(name, manual_dir)
    message, _ = fails(name, data_dir, manual_dir)
    assert message.startswith(f'{path} cannot be read as the archive its name says (')
    assert_nothing_half_written(data_dir)


def test_a_tar_without_its_files(folders, expect):
    data_dir, manual_dir = folders
    write_tar(manual_dir / 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin', {'batches.meta.txt': b'cat\n'})
    expect('cifar10', manual_dir)
    assert "KeyError: 'data_batch_1.bin'" in fails('cifar10', data_dir, manual_dir)[0]
    assert_nothing_half_written(data_dir)


@pytest.mark.parametrize('name', WRITERS)
def test_a_refused_connection(name, folders, expect):
    data_dir, manual_dir = folders
    WRITERS[name](manual_dir)
    with socket.socket() as unused:
        unused.bind(('localhost', 0))
        base_url = f'http://localhost:{unused.getsockname()[1]}'
    expect(name, manual_dir, base_url=base_url)
    message, seconds = fails(name, data_dir)
    assert seconds < 5
    file = FILES[name][0]
    num_bytes = (manual_dir / file).stat().st_size
    assert message.startswith(f'{name}: cannot download {base_url}/{file} (')
    assert 'refused' in message
    assert f'{file} ({num_bytes} bytes, {base_url}/{file})' in message
    assert f'into {data_dir}/downloads/manual' in message
    assert 'name it with data.manual_dir=' in message
    assert not data_dir.exists()


def test_a_host_that_never_answers(folders):
    with socket.create_server(('localhost', 0)) as server:
        url = f'http://localhost:{server.getsockname()[1]}/x'
        start = time.monotonic()
        with pytest.raises(UserError, match=r'cannot download .*timed out'):
            check_network('cifar10', folders[1], [Original('x', url, 1, 'sum')], seconds=1)
        assert time.monotonic() - start < 2
        with network_patience(0.5), pytest.raises(requests.Timeout):
            requests.get(url)


def test_a_search_for_the_address_that_never_ends(folders, monkeypatch):
    found = threading.Event()

    def get(*args, **kwargs):
        found.wait()
        raise requests.ConnectionError('too late')

    monkeypatch.setattr(requests, 'get', get)
    with pytest.raises(UserError, match='no answer in 0 s'):
        check_network('cifar10', folders[1], [Original('x', 'http://x/x', 1, 'sum')], seconds=0.1)
    found.set()


class Handler(http.server.SimpleHTTPRequestHandler):
    damage = staticmethod(lambda content: content)

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        # Who only asks whether the file is there hangs up.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(type(self).damage(content))

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """serve(folder, damage) -> its address."""
    servers = []

    def serve(folder, damage=lambda content: content):
        handler = type('Damaging', (Handler,), {'damage': staticmethod(damage)})
        server = http.server.ThreadingHTTPServer(
            ('localhost', 0), functools.partial(handler, directory=str(folder))
        )
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f'http://localhost:{server.server_port}'

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize('name', WRITERS)
def test_a_download(name, folders, expect, serve, capfd, monkeypatch):
    data_dir, manual_dir = folders
    splits = WRITERS[name](manual_dir)
    expect(name, manual_dir, base_url=serve(manual_dir))
    data = load_dataset(name, data_dir=str(data_dir))
    np.testing.assert_array_equal(data.train_images, splits['train'][0])
    assert not list(data_dir.rglob('*.tmp.*'))
    out, err = capfd.readouterr()
    assert err == ''
    assert all(line.startswith(f'{name}: ') for line in out.splitlines())
    # What was downloaded is used again, with no network.
    monkeypatch.setattr(requests.Session, 'request', None)
    shutil.rmtree(data_dir / 'metasemi_jax')
    np.testing.assert_array_equal(load_dataset(name, data_dir=str(data_dir)).train_images, splits['train'][0])


def test_a_missing_page(folders, expect, serve):
    data_dir, manual_dir = folders
    WRITERS['cifar10'](manual_dir)
    expect('cifar10', manual_dir, base_url=serve(data_dir))
    assert '(HTTP 404); without a network put' in fails('cifar10', data_dir)[0]
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda content: content[: len(content) // 2], 'the download broke off ('),
        (lambda content: content[:-1] + b'?', 'a download has the wrong checksum ('),
    ],
)
def test_a_bad_download(folders, expect, serve, damage, message):
    data_dir, manual_dir = folders
    WRITERS['cifar10'](manual_dir)
    expect('cifar10', manual_dir, base_url=serve(manual_dir, damage))
    assert fails('cifar10', data_dir)[0].startswith(f'cifar10: {message}')
    assert_nothing_half_written(data_dir)


def test_a_download_is_shown(tmp_path, capsys):
    with watch_downloads('cifar10', tmp_path, seconds=0.05):
        (tmp_path / 'x.tmp.0').mkdir()
        (tmp_path / 'x.tmp.0' / 'x.tar.gz').write_bytes(bytes(3_000_000))
        time.sleep(0.3)
    assert 'cifar10: downloading x.tar.gz, 3 MB so far\n' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def run(*args, **kwargs):
    return subprocess.Popen(
        command(*args, **kwargs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_full_disk(folders, tmp_path, expect):
    """Files longer than some limit fail here as they do on a full disk."""
    data_dir, manual_dir = folders
    write_svhn(manual_dir, train=300)
    flags = [f'--config={ROOT}/configs/svhn.py', f'--workdir={tmp_path}/run']
    flags += [f'--config.data.data_dir={data_dir}', f'--config.data.manual_dir={manual_dir}']

    def assert_full():
        process = run('svhn_cropped', manual_dir, ROOT / 'main.py', *flags, max_file_bytes=500_000)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.startswith(f'error: svhn_cropped: {data_dir} has no room (File too large)')
        assert err.count('\n') == 1
        assert not (tmp_path / 'run').exists()
        return out

    assert ': ready' not in assert_full()
    assert_nothing_half_written(data_dir)

    expect('svhn_cropped', manual_dir)
    load_dataset('svhn_cropped', data_dir=str(data_dir), manual_dir=str(manual_dir))
    shutil.rmtree(data_dir / 'metasemi_jax' / 'svhn_cropped' / '3.1.0')
    prepared = contents(data_dir)
    assert 'svhn_cropped: read ' in assert_full()
    assert contents(data_dir) == prepared


LOAD = """
import sys
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.progress import speaking
with speaking():
    data = load_dataset('svhn_cropped', data_dir=sys.argv[1], manual_dir=sys.argv[2])
print('sum', int(data.train_images.sum()))
"""


def test_two_runs_at_once(folders, tmp_path):
    data_dir, manual_dir = folders
    images, _ = write_svhn(manual_dir)['train']
    script = tmp_path / 'load.py'
    script.write_text(LOAD)
    with lock(data_dir / 'metasemi_jax' / 'svhn_cropped' / '3.1.0.lock', waiting=pytest.fail):
        runs = [run('svhn_cropped', manual_dir, script, data_dir, manual_dir) for _ in range(2)]
        for process in runs:
            waiting = f'svhn_cropped: another run is preparing it in {data_dir}; waiting for that one\n'
            assert process.stdout.readline() == waiting
    outputs = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    assert [err for _, err in outputs] == ['', '']
    second, first = sorted((out.splitlines() for out, _ in outputs), key=len)
    assert second == [f'sum {images.sum()}']
    assert first[0] == f'svhn_cropped: preparing it in {data_dir}, once'
    assert first[-1] == f'sum {images.sum()}'


def test_a_data_dir_that_is_a_file(folders, no_network):
    _, manual_dir = folders
    manual_dir.write_text('mine')
    assert (
        f'cifar10: {manual_dir} is a file; use another folder with data.data_dir='
        in fails('cifar10', manual_dir)[0]
    )
    assert manual_dir.read_text() == 'mine'


def test_a_data_dir_that_may_not_be_read(tmp_path, no_network):
    tmp_path.chmod(0o000)
    # Root may read everything, and becomes somebody else for this.
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        message, _ = fails('cifar10', tmp_path / 'tfds')
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert message.startswith(f'cifar10: {tmp_path}/tfds')
    assert 'cannot be used (Permission denied); check its permissions' in message


@pytest.mark.parametrize('name', ['svhn_cropped', 'stl10'])
def test_the_command_says_it_in_one_line(name, tmp_path):
    """The real builder and the real sums: the archives are not there."""
    config = f'--config=configs/{"svhn" if name == "svhn_cropped" else name}.py'
    folders = f'--config.data.data_dir={tmp_path}/tfds', f'--config.data.manual_dir={tmp_path}'
    process = run_main(config, f'--workdir={tmp_path}/run', *folders, cwd=ROOT)
    assert (process.returncode, process.stdout) == (1, '')
    message = f'error: {name}: data.manual_dir={tmp_path} lacks {FILES[name][0]} ({FILES[name][1]} bytes, '
    assert process.stderr.startswith(message)
    assert process.stderr.count('\n') == 1
    assert list(tmp_path.iterdir()) == []
