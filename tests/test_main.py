"""The command: a few times as a user types it, for the rest in this process."""

import json
import os

import pytest

from small_runs import ROOT, contents, read_log, run_here, run_main, tiny_config, tiny_flags

BAD_FLAGS = {
    '--config.nope=1': "unknown config field 'nope'",
    '--config.method.estimater=jvp': 'did you mean --config.method.estimator?',
    '--config.batch_size=many': 'must be a whole number',
    '--config=configs/nope.py': 'there is no such file (seen from ',
    '--confg=configs/digits.py': "Unknown command line flag 'confg'",
    'digits': "unexpected argument 'digits'",
    '--config.data.name=cifar11': "data.name 'cifar11': there is no source for this dataset; choose one of",
    '--config.model.name=vgg': "model.name 'vgg' is unknown; choose one of conv_large, conv_small",
    '--config.model.name=conv_large': 'needs images of at least 12×12, not 8×8',
    '--config.method.estimator=guess': 'must be one of exact, finite_difference, jvp',
    '--config.data.num_labels=5000': 'asks for 500 labels of class 0, which has',
    '--config.data.num_labels=55': 'cannot be shared evenly by 10 classes',
    '--config.batch_size=0': 'batch_size=0 must be more than 0',
    '--config.total_steps=-1': 'total_steps=-1 must be more than 0',
    '--config.data.mean=0.5,0.4 --config.data.std=0.2,0.2': 'name 2 channels, the images have 1',
}


def assert_one_clear_line(process, message):
    assert process.returncode == 1
    assert process.stderr.startswith('error: ')
    assert process.stderr.count('\n') == 1
    assert message in process.stderr
    assert process.stdout == ''


BAD_WORKDIRS = {
    'results.json': (b'[1]', 'is damaged (it holds a list)'),
    'results.json ': (b'{}', 'neither test_error_last nor validation_error_last); delete it, and start'),
    'labeled_ids.txt': (b'\xff\xfe', 'labeled_ids.txt is damaged ('),
    'labeled_ids.txt ': (b'0001\n', 'labeled_ids.txt names 1 images, data.num_labels=50'),
    'labeled_ids.txt  ': (b'', 'labeled_ids.txt names 0 images, data.num_labels=50'),
    'checkpoints': (b'a file', 'holds a run without its config.json'),
}


@pytest.mark.parametrize('flags', BAD_FLAGS)
def test_bad_flags_end_in_one_line(tmp_path, flags):
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/run', *flags.split(), cwd=ROOT), BAD_FLAGS[flags])
    assert list(tmp_path.iterdir()) == []


# One that is refused before JAX is imported, one by the settings' checks.
@pytest.mark.parametrize('flags', ['--confg=configs/digits.py', '--config.data.num_labels=5000'])
def test_so_it_is_for_a_user(tmp_path, flags):
    typed = run_main(f'--workdir={tmp_path}/run', flags, cwd=ROOT)
    assert_one_clear_line(typed, BAD_FLAGS[flags])
    here = run_here(f'--workdir={tmp_path}/run', flags, cwd=ROOT)
    assert (here.returncode, here.stdout, here.stderr) == (typed.returncode, typed.stdout, typed.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_config_file_ends_in_one_line(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        'from configs import default\n\n\ndef get_config():\n    return default.get_config().nope\n'
    )
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/run', f'--config={config}'), "'nope'")
    config.write_text('def get_config(:\n')
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/run', f'--config={config}'), 'invalid syntax')
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize('name', BAD_WORKDIRS)
def test_a_damaged_workdir_ends_in_one_line(tmp_path, name):
    content, message = BAD_WORKDIRS[name]
    if name.startswith('results'):
        (tmp_path / 'config.json').write_text(json.dumps(tiny_config().to_dict()))
    (tmp_path / name.strip()).write_bytes(content)
    before = contents(tmp_path)
    assert_one_clear_line(run_here(*tiny_flags(), f'--workdir={tmp_path}'), message)
    assert contents(tmp_path) == before


def test_odd_workdirs(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/link'), 'is a file; name another folder')
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/{"x" * 300}'), 'File name too long')


def test_help():
    process = run_main('--help')
    assert (process.returncode, process.stderr) == (0, '')
    assert '--config' in process.stdout
    assert '--workdir' in process.stdout


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / 'run').write_text('mine')
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/run'), 'is a file; name another folder')
    assert_one_clear_line(run_here(f'--workdir={tmp_path}/run/below'), 'is a file; name another folder')
    assert (tmp_path / 'run').read_text() == 'mine'


def test_a_workdir_that_cannot_be_written():
    # Root, whom CI runs as, may write into any folder but those of the kernel.
    assert_one_clear_line(run_here('--workdir=/proc/run'), '/proc cannot be written')


def test_a_run_its_repetition_and_another_config(tmp_path):
    """One workdir through its life; the config comes last on the command line, which is allowed."""
    workdir = tmp_path / 'run'
    flags = [*tiny_flags(total_steps=4), f'--workdir={workdir}', f'--config={ROOT}/configs/digits.py']
    first = run_main(*flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ''
    lines = first.stdout.splitlines()
    assert lines[0].startswith('digits: 50 labeled, 1,247 unlabeled, 500 test images of 10 classes; mlp, ')
    assert any(line.startswith('step 4/4  loss ') and 'images/s' in line for line in lines)
    assert '\r' not in first.stdout
    assert 'selected on the test set' in first.stdout
    for name in ('results.json', 'metrics.jsonl', 'checkpoints', 'config.json', 'labeled_ids.txt'):
        assert (workdir / name).exists()
        assert name in first.stdout
    last = json.loads((workdir / 'results.json').read_text())['test_error_last']
    assert f'{last:.2f}%' in first.stdout

    before = contents(workdir)
    again = run_here(*flags, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, '')
    assert 'this run is finished' in again.stdout

    other = run_here(*flags, '--config.seed=9', '--config.optimizer.lr=0.2', cwd=tmp_path)
    assert_one_clear_line(other, 'optimizer.lr: 0.1 there, 0.2 here; seed: 0 there, 9 here')
    assert contents(workdir) == before


def test_without_a_workdir_runs_is_used(tmp_path):
    process = run_here(*tiny_flags(total_steps=2), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert len(read_log(tmp_path / 'runs' / 'digits')) > 0


def test_the_second_start_compiles_nothing(tmp_path):
    cache = tmp_path / 'cache'
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}

    def start(name):
        process = run_main(*tiny_flags(total_steps=2), f'--workdir={tmp_path / name}', env=environment)
        assert process.returncode == 0, process.stderr
        return sorted(path.name for path in cache.iterdir() if path.name.endswith('-cache'))

    first = start('first')
    assert any(name.startswith('jit_run_one-') for name in first)
    assert start('second') == first
