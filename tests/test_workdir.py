import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import digits
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.splits import split_sha256
from metasemi_jax.errors import UserError
from metasemi_jax.files import write_atomically, write_json
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.reading import read_json

IDS = ['0003', '0010']


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob('*')
    }


def refused(path, config, message):
    with pytest.raises(UserError, match=message) as caught:
        Workdir(path).check(config)
    assert '\n' not in str(caught.value)


def test_checks_write_nothing(tmp_path):
    workdir = Workdir(tmp_path / 'runs' / 'new')
    workdir.check(digits.get_config())
    assert workdir.read_labeled_ids() is None
    assert workdir.read_results() is None
    assert everything(tmp_path) == {}
    with workdir.lock():
        workdir.create(digits.get_config(), IDS)
    before = everything(tmp_path)
    workdir.check(digits.get_config())
    assert everything(tmp_path) == before


def test_create_and_read_back(tmp_path):
    workdir = Workdir(tmp_path / 'a' / 'b')
    config = digits.get_config()
    with workdir.lock():
        workdir.create(config, IDS)
    assert sorted(p.name for p in workdir.path.iterdir()) == ['.lock', 'config.json', 'labeled_ids.txt']
    assert workdir.read_labeled_ids() == IDS
    assert hashlib.sha256(workdir.labeled_ids.read_bytes()).hexdigest() == split_sha256(IDS)
    assert read_json(workdir.config)['data']['num_labels'] == 50
    write_json(workdir.results, {'test_error_last': 4.5, 'steps': 3})
    assert workdir.read_results() == {'test_error_last': 4.5, 'steps': 3}


def test_what_the_network_takes_is_read_back(tmp_path):
    workdir = Workdir(tmp_path)
    form = InputSpec((8, 8, 2), (0.1, 1 / 3), (0.2, 1.0))
    workdir.create(digits.get_config(), IDS, class_names=('katze', 'größe'), input_spec=form)
    assert workdir.read_input_spec() == form
    assert workdir.read_class_names() == ('katze', 'größe')
    for text in ('[]', '{"mean": [1]}', '{"image_shape": [8, 8, 1], "mean": [1, 2], "std": [1, 2]}'):
        workdir.input_spec.write_text(text)
        with pytest.raises(UserError, match=r'input\.json is damaged'):
            workdir.read_input_spec()


def test_another_config_is_refused_with_the_fields(tmp_path):
    Workdir(tmp_path).create(digits.get_config(), IDS)
    (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
    other = digits.get_config()
    other.seed, other.optimizer.lr = 3, 0.5
    before = everything(tmp_path)
    refused(tmp_path, other, r'optimizer.lr: 0.1 there, 0.5 here; seed: 0 there, 3 here')
    assert everything(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    file = tmp_path / 'file'
    file.write_text('mine')
    for path in (file, file / 'below', file / 'far' / 'below'):
        refused(path, digits.get_config(), f'{file} is a file')
    assert file.read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    for path in (locked, locked / 'below'):
        refused(path, digits.get_config(), f'{locked} cannot be written')


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs Linux')
def test_a_file_system_that_takes_no_files_is_refused():
    # Of use where the tests run as root: not even root may write there.
    refused('/proc/self/run', digits.get_config(), '/proc/self cannot be written')


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text('{"seed": ')
    (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
    refused(tmp_path, digits.get_config(), f'{path} is damaged')


def test_a_relative_path_stays_where_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = Workdir('runs/x')
    monkeypatch.chdir('/')
    assert workdir.path == tmp_path / 'runs' / 'x'


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    workdir.create(digits.get_config(), IDS)

    def read_bytes(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, 'read_bytes', read_bytes)
    for read in (workdir.read_config, workdir.read_labeled_ids):
        with pytest.raises(UserError, match=r'(config\.json|labeled_ids\.txt) cannot be read .Input/output'):
            read()


def test_what_is_described_exists(tmp_path):
    workdir = Workdir(tmp_path)
    text = workdir.describe()
    for path in (workdir.config, workdir.labeled_ids, workdir.metrics, workdir.results, workdir.checkpoints):
        assert path.name in text


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / 'results.json'
    write_atomically(path, 'long ' * 1000)
    write_json(path, {'a': [1, 2]})
    assert json.loads(path.read_text()) == {'a': [1, 2]}
    assert os.listdir(tmp_path) == ['results.json']


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    # A limit of 1,000 bytes a file stands for a full disk.
    path = tmp_path / 'results.json'
    path.write_text('old')
    program = (
        'import resource, signal, sys, pathlib\n'
        'from metasemi_jax.files import write_atomically\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
        'write_atomically(pathlib.Path(sys.argv[1]), "new" * 1000)\n'
    )
    done = subprocess.run([sys.executable, '-c', program, path], capture_output=True, text=True, check=False)
    assert 'File too large' in done.stderr
    assert path.read_text() == 'old'


def test_a_folder_that_another_host_did_not_make(tmp_path):
    files = Workdir(tmp_path / 'run')
    with pytest.raises(UserError, match='is not the folder that the primary process made'):
        files.check_shared(seconds=0)
    files.path.mkdir()
    files.config.touch()
    files.check_shared(seconds=0)


def test_a_start_that_fails_before_it_writes_leaves_nothing(tmp_path):
    def begin(files, *, write):
        with files.lock():
            if write:
                files.create(digits.get_config(), IDS)
            raise UserError('refused')

    def start(path, *, write=False):
        with pytest.raises(UserError, match='refused'):
            begin(Workdir(path), write=write)

    start(tmp_path / 'runs' / 'new')
    assert everything(tmp_path) == {}
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'empty').mkdir()
    start(tmp_path / 'runs' / 'new')
    start(tmp_path / 'empty')
    assert {*everything(tmp_path)} == {
        'runs',
        'empty',
        'empty/.lock',
    }
    start(tmp_path / 'runs' / 'new', write=True)
    assert 'runs/new/config.json' in everything(tmp_path)
