"""The command on real digits, in this process and as a user types it."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.predict import __main__ as predict
from metasemi_jax.training.experiment_data import load_data
from metasemi_jax.training.loop import train_and_evaluate
from own_images import own_config, write_folder, write_image
from small_runs import ROOT, contents, make_run, tiny_config

CONFIG = tiny_config(ema_decay=0.9, total_steps=6, eval_every=2, checkpoint_every=2, data__num_validation=20)


@pytest.fixture(scope='module')
def digits():
    return load_data(CONFIG)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run that was really trained, and evaluated by training."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    return workdir, train_and_evaluate(CONFIG, workdir)


@pytest.fixture(scope='module')
def mine(tmp_path_factory):
    """A run on one's own images, stopped after step 2 of 4: its folder of images and its workdir."""
    here = tmp_path_factory.mktemp('own')
    config = own_config(write_folder(here / 'mine', unlabeled=30))
    return here / 'mine', make_run(here / 'run', config, {2: 50.0})


def run(*args):
    """Exit message, or None where it ended well."""
    try:
        predict.main(['predict', *map(str, args)])
    except SystemExit as exit_:
        return exit_.code
    return None


def rows_of(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def errors_in(text):
    return [float(line.split()[2].rstrip('%')) for line in text.splitlines() if ' error ' in line]


def best(log, name):
    """The figure of the latest of the evaluations with the lowest validation error."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if 'validation/error' in line]
    lowest = min(line['validation/error'] for line in lines)
    return [line[name] for line in lines if line['validation/error'] == lowest][-1]


def test_the_error_is_exactly_that_of_results_json(trained, digits, tmp_path, capsys):
    workdir, results = trained
    expected = {
        ('test', 'last'): results['test_error_last'],
        ('test', 'ema'): results['ema_test_error_last'],
        ('validation', 'last'): results['validation_error_last'],
        ('test', 'best'): best(workdir / 'metrics.jsonl', 'test/error'),
        ('test', 'best_ema'): best(workdir / 'metrics.jsonl', 'test/ema_error'),
    }
    for (split, weights), error in expected.items():
        output = tmp_path / 'out.csv'
        flags = [f'--split={split}', f'--weights={weights}', f'--output={output}']
        assert run(f'--workdir={workdir}', *flags) is None
        out = capsys.readouterr().out
        assert errors_in(out) == [error]
        rows = rows_of(output)
        assert 100 * sum(row['predicted'] != row['label'] for row in rows) / len(rows) == error
        assert f'written to {output}' in out
        assert 'images/s' in out
        if split == 'test':
            assert [row['label'] for row in rows] == list(map(str, digits.test_labels))
            assert [row['path'] for row in rows] == digits.test_ids.tolist()


def test_files_folders_and_arrays_are_the_split(trained, digits, tmp_path, capsys):
    """The test images as files give the same rows, to the last bit, as the split."""
    workdir, _ = trained
    for name, image in zip(digits.test_ids, digits.test_images, strict=True):
        write_pixels(tmp_path / 'test' / f'{name}.png', image[..., 0])
    np.savez(tmp_path / 'test.npz', x=digits.test_images)
    assert run(f'--workdir={workdir}', '--split=test', '--all') is None
    expected = rows_of(workdir / 'predictions_test.csv')
    for given in ('test', 'test.npz'):
        assert run(f'--workdir={workdir}', tmp_path / given, '--all') is None
        rows = rows_of(workdir / 'predictions.csv')
        for name in ('predicted', 'probability', 'error', *(f'p({k})' for k in range(10))):
            assert [row[name] for row in rows] == [row[name] for row in expected], name
    assert list(rows[0]) == ['path', 'predicted', 'probability', *(f'p({k})' for k in range(10)), 'error']
    for row in expected:
        every = [float(row[f'p({k})']) for k in range(10)]
        assert float(row['probability']) == max(every) == every[int(row['predicted'])]
        assert abs(sum(every) - 1) < 1e-5
    assert rows[3]['path'] == f'{tmp_path}/test.npz[3]'
    capsys.readouterr()


def write_pixels(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_the_unlabeled_pool_most_confident_first(mine, capsys):
    images, workdir = mine
    assert run(f'--workdir={workdir}', '--unlabeled') is None
    rows = rows_of(workdir / 'predictions_unlabeled.csv')
    assert sorted(row['path'] for row in rows) == sorted(
        path.relative_to(images).as_posix() for path in (images / 'unlabeled').rglob('*.png')
    )
    probabilities = [float(row['probability']) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(set(probabilities)) > 20
    assert list(rows[0]) == ['path', 'predicted', 'probability', 'error']
    assert {row['predicted'] for row in rows} <= {'cat', 'dog'}
    out = capsys.readouterr().out
    assert 'after step 2 of 4 (the run is not finished)' in out
    assert errors_in(out) == []
    # As a split they come in the order of their names.
    assert run(f'--workdir={workdir}', '--split=unlabeled') is None
    by_name = rows_of(workdir / 'predictions_unlabeled.csv')
    assert [row['path'] for row in by_name] == sorted(row['path'] for row in rows)
    assert sorted(by_name, key=lambda row: -float(row['probability'])) == rows


def test_labeled_and_test_images_of_ones_own(mine, capsys):
    images, workdir = mine
    for split, count in (('labeled', 7), ('test', 4)):
        assert run(f'--workdir={workdir}', f'--split={split}') is None
        rows = rows_of(workdir / f'predictions_{split}.csv')
        assert len(rows) == count
        for row in rows:
            assert row['label'] == row['path'].split('/')[1]
            assert (images / row['path']).is_file()
    assert len(errors_in(capsys.readouterr().out)) == 2


def test_a_bad_image_has_its_row_and_odd_names_are_quoted(mine, tmp_path, capfdbinary):
    _, workdir = mine
    odd = tmp_path / 'a "quoted", name\nof two lines.png'
    write_image(odd, 1)
    (tmp_path / os.fsdecode(b'bad\xff.png')).write_bytes(b'no image')
    shutil.copy(odd, tmp_path / os.fsdecode(b'\xff.png'))
    before = contents(tmp_path)
    assert run(f'--workdir={workdir}', '--output=-', '--all', tmp_path) is None
    out, err = (os.fsdecode(stream) for stream in capfdbinary.readouterr())
    assert contents(tmp_path) == before
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row['path'] for row in rows] == [str(odd), f'{tmp_path}/bad\udcff.png', f'{tmp_path}/\udcff.png']
    assert [row['error'] for row in rows] == ['', 'not an image, or damaged', '']
    assert rows[1]['predicted'] == rows[1]['probability'] == rows[1]['p(cat)'] == ''
    assert rows[0]['p(dog)'] == rows[2]['p(dog)'] != ''
    assert f'1 of them could not be read, see the column error: {tmp_path}/bad\ufffd.png (not an' in err
    assert 'written to' not in err


def test_images_that_have_moved(mine, tmp_path, capsys):
    images, workdir = mine
    run_copy = shutil.copytree(workdir, tmp_path / 'run')
    moved = shutil.copytree(images, tmp_path / 'moved')
    config = json.loads((run_copy / 'config.json').read_text())
    config['data']['path'] = 'gone'
    (run_copy / 'config.json').write_text(json.dumps(config))
    line = run(f'--workdir={run_copy}', '--split=test')
    assert 'cannot be had: gone: there is no such file or folder' in line
    assert '--data_path=' in line
    assert run(f'--workdir={run_copy}', '--split=test', f'--data_path={moved}') is None
    capsys.readouterr()
    write_image(moved / 'unlabeled' / 'new.png')
    assert run(f'--workdir={run_copy}', '--unlabeled', f'--data_path={moved}') is None
    out = capsys.readouterr().out
    assert f'the images have changed since {run_copy} was begun: unlabeled ones were added' in out
    assert 'unlabeled/new.png' in {row['path'] for row in rows_of(run_copy / 'predictions_unlabeled.csv')}


def test_images_that_were_reviewed_into_the_labeled_ones(mine, tmp_path, capsys):
    images, workdir = mine
    moved = shutil.copytree(images, tmp_path / 'moved')
    flags = (f'--workdir={workdir}', f'--data_path={moved}', f'--output={tmp_path / "out.csv"}')
    assert run(*flags, '--split=test') is None
    before = rows_of(tmp_path / 'out.csv')
    reviewed = sorted((moved / 'unlabeled').rglob('*.png'))[:3]
    for i, path in enumerate(reviewed):
        path.rename(moved / 'labeled' / 'cat' / f'new{i}.png')
    capsys.readouterr()
    assert run(*flags, '--split=test') is None
    assert rows_of(tmp_path / 'out.csv') == before
    assert '3 labeled images are new, and left out; its splits are what is left' in capsys.readouterr().out
    assert run(*flags, '--unlabeled') is None
    paths = {row['path'] for row in rows_of(tmp_path / 'out.csv')}
    left = {path.relative_to(moved).as_posix() for path in (moved / 'unlabeled').rglob('*.png')}
    assert paths == left
    assert run(*flags, '--split=labeled') is None
    assert len(rows_of(tmp_path / 'out.csv')) == 7
    # Another class, or none of the images that were trained on: these are not the images of the run.
    write_image(moved / 'labeled' / 'owl' / '0.png')
    assert run(*flags, '--split=test').startswith('error: the images have changed since')
    shutil.rmtree(moved / 'labeled' / 'owl')
    for path in (moved / 'labeled').rglob('[0-9].png'):
        path.rename(path.with_name(f'renamed{path.name}'))
    assert run(*flags, '--split=test').startswith('error: the images have changed since')
    capsys.readouterr()


BAD = {
    '': '--workdir is missing; name the folder of a run',
    '--workdir=nowhere a.png': 'error: nowhere does not exist; name a run',
    '--workdir=RUN': 'nothing to classify; name image files, folders',
    '--workdir=RUN --split=tset': '--split=tset: value should be one of <test|validation|labeled|unlabeled>',
    '--workdir=RUN --split=validation': 'has no validation images; choose another of test, ',
    '--workdir=RUN --split=test --unlabeled': '--unlabeled and --split=test name two splits',
    '--workdir=RUN --unlabeled a.png': "name either images ('a.png') or the run's unlabeled images",
    '--workdir=RUN gone.png': 'gone.png: there is no such file or folder',
    '--workdir=RUN text.txt': 'none of the 1 images can be read: text.txt (not an image, or damaged)',
    '--workdir=RUN grey.npz': 'grey.npz: its images are of 8×8×1, the network takes 8×8×3',
    '--workdir=RUN a.png --weights=first': 'value should be one of <last|best|ema|best_ema|reported>',
    '--workdir=RUN a.png --batch_size=-1': 'flag --batch_size=-1: -1 is not a non-negative integer',
    '--workdir=RUN a.png --output=RUN': 'is a folder; name a file',
    '--workdir=RUN a.png --output=no/such/folder.csv': 'cannot be written (No such file or directory)',
    '--workdir=RUN a.png --al': "Unknown command line flag 'al'",
}


@pytest.mark.parametrize('args', BAD)
def test_bad_input_ends_in_one_line_and_nothing_is_written(mine, tmp_path, monkeypatch, args):
    _, workdir = mine
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / 'a.png')
    (tmp_path / 'text.txt').write_text('no image')
    np.savez(tmp_path / 'grey.npz', x=np.zeros((2, 8, 8), np.uint8))
    before = contents(tmp_path), contents(workdir)
    line = run(*args.replace('RUN', str(workdir)).split())
    assert line.startswith('error: ')
    assert BAD[args] in line
    assert '\n' not in line
    assert (contents(tmp_path), contents(workdir)) == before


def test_an_older_result_survives_a_failure(mine, tmp_path):
    _, workdir = mine
    output = tmp_path / 'out.csv'
    output.write_text('path,predicted,probability,error\nolder')
    np.savez(tmp_path / 'a.npz', x=np.zeros((20, 8, 8, 3), np.uint8))
    content = bytearray((tmp_path / 'a.npz').read_bytes())
    content[600] ^= 255
    (tmp_path / 'a.npz').write_bytes(content)
    line = run(f'--workdir={workdir}', f'--output={output}', tmp_path / 'a.npz', '--batch_size=4')
    assert 'a.npz cannot be read as an .npz file' in line
    assert output.read_text().endswith('older')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.npz', 'out.csv']


def test_as_a_user_types_it(mine, tmp_path):
    _, workdir = mine
    write_image(tmp_path / 'a.png')
    command = [sys.executable, '-m', 'metasemi_jax.predict']
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    options = {'capture_output': True, 'text': True, 'cwd': tmp_path, 'env': environment, 'timeout': 120}
    helped = subprocess.run([*command, '--help'], **options)
    assert (helped.returncode, helped.stderr) == (0, '')
    for flag in ('workdir', 'split', 'unlabeled', 'weights', 'all', 'output', 'batch_size', 'data_path'):
        assert f'--{flag}:' in helped.stdout or f'--[no]{flag}:' in helped.stdout
    process = subprocess.run([*command, 'a.png', f'--workdir={workdir}', '--output=a.csv'], **options)
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout.splitlines()[-1] == 'written to a.csv'
    (row,) = rows_of(tmp_path / 'a.csv')
    assert row['path'] == 'a.png'
    wrong = subprocess.run([*command, f'--workdir={tmp_path}', 'a.png'], **options)
    assert (wrong.returncode, wrong.stdout) == (1, '')
    assert wrong.stderr.count('\n') == 1
    assert 'holds no run (no config.json)' in wrong.stderr


def test_what_loading_says_stays_out_of_the_rows(mine, capfd):
    images, workdir = mine
    (images / 'unlabeled' / 'a.heic').write_text('')
    assert run(f'--workdir={workdir}', '--split=test', '--output=-') is None
    out, err = capfd.readouterr()
    assert out.startswith('path,predicted,')
    assert 'left out 1 files that are not read as images (1 .heic; ' in err
