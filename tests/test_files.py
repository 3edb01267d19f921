import os
import stat
import subprocess
import sys
import threading

import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.files import (
    check_writable,
    folder_atomically,
    is_replaceable,
    lock,
    open_atomically,
    write_atomically,
)
from small_runs import ROOT


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / 'far').mkdir()
    target, link = tmp_path / 'far' / 'data', tmp_path / 'link'
    target.write_text('old')
    target.chmod(0o640)
    link.symlink_to('far/data')
    write_atomically(link, 'new')
    assert link.is_symlink()
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ('new', 0o640)
    (tmp_path / 'dangling').symlink_to('far/made')
    write_atomically(tmp_path / 'dangling', 'made')
    assert (tmp_path / 'far' / 'made').read_text() == 'made'
    assert sorted(os.listdir(tmp_path / 'far')) == ['data', 'made']
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(OSError, match='symbolic links'):
        write_atomically(tmp_path / 'loop', 'never')
    assert (tmp_path / 'loop').is_symlink()


def test_a_pipe_is_written_into_and_stays(tmp_path):
    pipe, read = tmp_path / 'pipe', []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, 'through')
    reader.join()
    assert read == ['through']
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ['pipe']


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs Linux')
def test_an_open_descriptor_is_written_into(tmp_path):
    """/dev/stdout after `> file`: whoever replaced the file would write past the shell."""
    with (tmp_path / 'out').open('w+') as file:
        before = os.fstat(file.fileno()).st_ino
        (tmp_path / 'stdout').symlink_to(f'/proc/self/fd/{file.fileno()}')
        for name in (f'/dev/fd/{file.fileno()}', tmp_path / 'stdout'):
            path = tmp_path.__class__(name)
            assert not is_replaceable(path)
            write_atomically(path, f'{name}')
            assert (tmp_path / 'out').read_text() == f'{name}'
        assert os.stat(tmp_path / 'out').st_ino == before
    assert not is_replaceable(tmp_path.__class__('/dev/null'))
    assert is_replaceable(tmp_path / 'out')


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a'
    path.write_text('old')
    with pytest.raises(TypeError), open_atomically(path) as file:
        file.writelines(['new', None])
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a']


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ('é' * 127)
    write_atomically(path, 'x')
    assert path.read_text() == 'x'


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'made'
    with pytest.raises(FileNotFoundError), folder_atomically(path) as beside:
        (beside / 'not' / 'made').mkdir()
    assert os.listdir(tmp_path) == []
    with folder_atomically(path) as beside:
        (beside / 'whole').touch()
        assert not path.exists()
    assert os.listdir(path) == ['whole']
    # What somebody has put there meanwhile is kept.
    with pytest.raises(OSError, match='not empty'), folder_atomically(path) as beside:
        (beside / 'other').touch()
    assert os.listdir(path) == ['whole']


def test_a_lock_is_held_by_one_and_keeps_what_lies_there(tmp_path):
    path = tmp_path / 'new' / '.lock'
    path.parent.mkdir()
    path.write_text("somebody's")

    def refuse():
        raise UserError('in use')

    with lock(path, waiting=refuse), pytest.raises(UserError, match='in use'), lock(path, waiting=refuse):
        pass
    waited = []
    with lock(path, waiting=refuse):
        # Another descriptor in this process stands for another process.
        holder = threading.Thread(target=lambda: lock(path, waiting=lambda: waited.append(1)).__enter__())
        holder.start()
        while not waited:
            pass
    holder.join()
    assert path.read_text() == "somebody's"


def test_what_stands_in_the_way_is_named(tmp_path):
    check_writable(tmp_path / 'a' / 'b', 'here')
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to('nowhere')
    for name in ('file', 'link'):
        with pytest.raises(UserError, match=f'here: {tmp_path / name} is a file; name another folder'):
            check_writable(tmp_path / name / 'below', 'here')
    assert sorted(os.listdir(tmp_path)) == ['file', 'link']


def test_closed_streams_swallow_what_is_printed(tmp_path):
    """What a library prints must not reach the file that is opened next; who writes there hears of it."""
    program = (
        'import os, sys\n'
        'from pathlib import Path\n'
        'from metasemi_jax.files import replace_closed_streams\n'
        'replace_closed_streams()\n'
        "file = open('opened', 'w')\n"
        "print('printed'); print('error', file=sys.stderr)\n"
        'said = []\n'
        'for number in (1, 2):\n'
        '    try:\n'
        "        os.write(number, b'written')\n"
        '    except OSError as error:\n'
        '        said.append(error.strerror)\n'
        "file.write(f'{said}')\n"
    )
    command = ['sh', '-c', 'exec "$0" -c "$1" >&- 2>&-', sys.executable, program]
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, timeout=60).returncode == 0
    assert (tmp_path / 'opened').read_text() == "['Bad file descriptor', 'Bad file descriptor']"
