"""What the commands write may not take the place of what they did not write."""

import csv
import os
import shutil
import stat
import sys
import threading
from pathlib import Path

import pytest

from metasemi_jax import export
from metasemi_jax.predict import __main__ as predict
from metasemi_jax.predict.output import check_output
from metasemi_jax.report import __main__ as report
from own_images import own_config, write_folder, write_image
from small_runs import contents, make_run


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    here = tmp_path_factory.mktemp('outputs')
    return make_run(here / 'run', own_config(write_folder(here / 'mine')))


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'run')


def run_command(command, *args):
    """Exit message, or None where it ended well."""
    try:
        command.main([command.__name__, *map(str, args)])
    except SystemExit as exit_:
        return exit_.code
    return None


def classify(run, *args):
    return run_command(predict, f'--workdir={run}', *args)


def refused(line, *parts):
    assert line.startswith('error: ')
    assert '\n' not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    'name',
    ['config.json', 'results.json', 'results_4.json', 'checkpoints/4/a', 'events.out.tfevents.1', '.lock'],
)
def test_no_file_of_a_run_is_written_over_nor_made(run, name):
    before = contents(run)
    refused(classify(run, '--unlabeled', f'--output={run / name}'), 'is a file of the run in')
    refused(run_command(export, f'--workdir={run}', f'--output={run / name}'))
    link = run.parent / 'link'
    link.symlink_to(run / name)
    refused(classify(run, '--unlabeled', f'--output={link}'), 'is a file of the run in')
    assert contents(run) == before


def test_export_beside_a_file_of_the_run(run):
    """--output=RUN/results would write the class names to RUN/results.json."""
    before = contents(run)
    for name in ('results', 'config', 'input', 'class_names'):
        refused(
            run_command(export, f'--workdir={run}', f'--output={run / name}'), f'{name}.json is a file of the'
        )
    assert contents(run) == before


def test_inputs_and_other_programs_files_are_not_written_over(run, tmp_path):
    write_image(tmp_path / 'a.png')
    (tmp_path / 'list.csv').write_text('path,label\na.png,cat\n')
    (tmp_path / 'model.json').write_text('{"layers": 3}')
    (tmp_path / 'weights.bin').write_bytes(bytes(1000))
    os.link(tmp_path / 'a.png', tmp_path / 'hard.csv')
    before = contents(tmp_path)
    for name in ('a.png', 'list.csv', 'hard.csv'):
        refused(
            classify(run, tmp_path / 'a.png', f'--output={tmp_path / name}'), 'was not written by predict'
        )
    for output in ('model.bin', 'weights.bin'):
        line = run_command(export, f'--workdir={run}', f'--output={tmp_path / output}')
        refused(line, 'was not written by export; name another file')
    assert contents(tmp_path) == before
    # An empty file, as mktemp makes it, is nobody's.
    (tmp_path / 'empty').touch()
    check_output(str(tmp_path / 'empty'))


def test_a_table_corrected_by_hand_is_kept(run, capsys):
    table = run / 'predictions_unlabeled.csv'
    assert classify(run, '--unlabeled') is None
    written = table.read_bytes()
    assert classify(run, '--unlabeled') is None
    assert sorted(run.glob('predictions*')) == [table]
    corrected = written.replace(b'cat', b'dog')
    for number in (1, 2):
        table.write_bytes(corrected + b'%d' % number)
        capsys.readouterr()
        assert classify(run, '--unlabeled') is None
        kept = run / f'predictions_unlabeled.{number}.csv'
        assert (
            f'{table} had been changed, or written for another run; it is kept as {kept}\n'
            in capsys.readouterr().out
        )
        assert kept.read_bytes() == corrected + b'%d' % number
        assert table.read_bytes() == written
    # What remembers it may be damaged, and then what is there is kept too.
    (run / '.predictions.json').write_text('[')
    assert classify(run, '--split=unlabeled') is None
    assert (run / 'predictions_unlabeled.3.csv').read_bytes() == written


def test_an_export_replaces_an_older_one(run):
    for _ in range(2):
        assert run_command(export, f'--workdir={run}') is None
    assert {path.name for path in run.glob('classifier*')} == {'classifier.jax_export', 'classifier.json'}
    refused(run_command(export, f'--workdir={run}', '--output=/dev/null'), '/dev/null is no regular file')
    assert not Path('/dev/null.json').exists()


def test_pipes_links_and_devices_stay_what_they_are(run, tmp_path, capfd):
    image = tmp_path / 'a.png'
    write_image(image)
    pipe, read = tmp_path / 'pipe', []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert classify(run, image, f'--output={pipe}') is None
    reader.join()
    assert read[0].startswith('path,predicted,probability,error\n')
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / 'link.csv').symlink_to('real.csv')
    assert classify(run, image, f'--output={tmp_path}/link.csv') is None
    assert (tmp_path / 'link.csv').is_symlink()
    assert (tmp_path / 'real.csv').read_text() == read[0]
    assert classify(run, image, '--output=/dev/null') is None
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    capfd.readouterr()
    assert classify(run, image, '--output=/dev/stdout') is None
    out, err = capfd.readouterr()
    assert out == read[0]
    assert 'images/s' in err
    assert os.path.islink('/dev/stdout')


def test_stdout_closed(run, tmp_path, monkeypatch):
    """`>&-`: what people would read is lost and the work is done; rows for standard output are missed."""
    write_image(tmp_path / 'a.png')
    kept = os.dup(1)
    try:
        os.close(1)
        monkeypatch.setattr(sys, 'stdout', None)
        assert classify(run, tmp_path / 'a.png', f'--output={tmp_path}/a.csv') is None
        line = classify(run, tmp_path / 'a.png', '--output=-')
        sys.stdout.close()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert line == 'error: --output=- cannot be written (Bad file descriptor); name another file'
    with (tmp_path / 'a.csv').open() as file:
        assert [row['path'] for row in csv.DictReader(file)] == [str(tmp_path / 'a.png')]


def test_somebodys_report_is_not_written_over(tmp_path):
    (tmp_path / 'thesis').mkdir()
    for end in ('pdf', 'md'):
        (tmp_path / 'thesis' / f'report.{end}').write_text('years of work')
        with pytest.raises(Exception, match=f'report.{end} was not written by this command'):
            report._check_output(tmp_path / 'thesis')
        (tmp_path / 'thesis' / f'report.{end}').unlink()
    (tmp_path / 'thesis' / 'report.md').write_text('| test error, % | last step |\n')
    (tmp_path / 'thesis' / 'report.pdf').write_text('of the same')
    report._check_output(tmp_path / 'thesis')
    with pytest.raises(Exception, match=r'--output=.*is a file; name another folder'):
        report._check_output(Path('/dev/stdout'))
