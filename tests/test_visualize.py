"""The command on real digits and on one's own images."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.errors import UserError, printable
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.visualize import __main__ as visualize
from metasemi_jax.visualize import look, review
from metasemi_jax.visualize.html_report import html_report
from metasemi_jax.visualize.page import NAMES
from metasemi_jax.visualize.run_names import run_names
from own_images import own_config, write_image
from page import Page
from small_runs import ROOT, contents, make_run, tiny_config

LOOKS = ('confusion', 'class_errors', 'reliability', 'mistakes', 'unlabeled')
FIGURES = ('tsne', 'curves', 'pseudo_labels', *LOOKS)
ODD = ('$a_b$', '<b>&"')  # names of classes


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A workdir that was really trained, with its results, and shown."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    config = tiny_config(ema_decay=0.9, total_steps=6, eval_every=2, checkpoint_every=2)
    results = train_and_evaluate(config, workdir)
    with (workdir / 'metrics.jsonl').open('ab') as file:
        file.write(b'{"step": 6, "test/err\n\xff\n')
    return workdir, results


@pytest.fixture(scope='module')
def mine(tmp_path_factory):
    """A run on images without a test set or labels of the unlabeled ones, stopped after step 2 of 4."""
    here = tmp_path_factory.mktemp('own')
    for i in range(12):
        write_image(here / 'mine' / 'labeled' / ODD[i % 2] / f'{i}.png', i)
        write_image(here / 'mine' / 'unlabeled' / f'{i}.png', 100 + i)
    return make_run(here / 'run', own_config(here / 'mine'), {2: 50.0})


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Drawing them takes most of the time."""
    monkeypatch.setattr(look, 'MOST', 6)
    monkeypatch.setattr(review, 'EACH', 1)


def run(*args):
    """Exit message, or None where it ended well."""
    try:
        visualize.main(['visualize', *map(str, args)])
    except SystemExit as exit_:
        return exit_.code
    return None


def text_of(page):
    return ' '.join(' '.join(Page(page.read_text()).text).split())


def test_a_finished_run(trained, capsys):
    workdir, results = trained
    assert run(workdir, '--num_points=60') is None
    out = capsys.readouterr().out
    assert f'{workdir}/metrics.jsonl: 2 damaged lines skipped' in out
    assert 't-SNE of 60 images' in out
    figures = workdir / 'figures'
    expected = [f'{name}.{suffix}' for name in FIGURES for suffix in ('pdf', 'png')]
    assert sorted(path.name for path in figures.iterdir()) == sorted([*expected, 'report.html'])
    for name in FIGURES:
        image = np.asarray(Image.open(figures / f'{name}.png').convert('L'))
        assert min(edge.min() for edge in (image[0], image[-1], image[:, 0], image[:, -1])) == 255, name
        assert image.min() < 50
        assert (figures / f'{name}.pdf').read_bytes().startswith(b'%PDF')
    assert FIGURES == NAMES
    page = Page((figures / 'report.html').read_text())
    pictures = [reference for reference in page.references if reference.startswith('data:image/png;base64,')]
    assert len(pictures) == len(FIGURES)
    assert [reference for reference in page.references if reference not in pictures] == ['data:,']
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.split(',')[1]))).verify()
    text = text_of(figures / 'report.html')
    # The network judged anew is the one that was evaluated.
    assert f'({results["test_error_last"]:.2f}%)' in text
    wrong = int(re.search(r'(\d+) of 500 images are wrong', text)[1])
    assert 100 * wrong / 500 == results['test_error_last']
    assert f'{results["ema_test_error_best"]:.2f}% test images, EMA weights lowest of all' in text
    assert 'ema_decay 0.9' in text
    assert 'not finished' not in text
    assert '50 labeled, 1,247 unlabeled, 500 test images. Finished on 20' in text
    assert '# class test error wrong labeled unlabeled, predicted 0 0 ' in text
    # The heading stands there once, not as the title of a section too.
    assert [tag for tag in page.tags if tag in ('h1', 'h2')] == ['h1']


def test_two_runs_one_above_the_other(trained, tmp_path, capsys):
    workdir, results = trained
    other = make_run(tmp_path / 'run', tiny_config(method__meta=False, method__mixup=False))
    output = tmp_path / 'compared'
    assert run(workdir, other, '--num_points=40', f'--output={output}') is None
    names = {path.relative_to(output).as_posix() for path in output.rglob('*.png')}
    assert names == {
        'tsne.png',
        *(f'run/{name}.png' for name in FIGURES[1:]),
        *(f'run_2/{name}.png' for name in LOOKS),
    }
    height, width = np.asarray(Image.open(output / 'tsne.png').convert('L')).shape
    assert height > 0.45 * width  # two rows of four panels
    text = text_of(output / 'report.html')
    one, two = (
        'metasemi, meta=True, mixup=True, mixup_gamma=1.0, ema_decay=0.9, …, step 6',
        'metasemi, meta=False, mixup=False, ema_decay=0.0, total_steps=12, step 12 of 12, not finished',
    )
    error = f'{results["test_error_last"]:.2f}'
    assert f'{one} 50 {error} {error} ' in text
    assert re.search(rf'{re.escape(two)} 50 [\d.]+ – –', text)
    assert 'There are no training curves' in text
    assert f'{workdir} is named twice' in run(workdir, workdir)
    capsys.readouterr()


def test_own_images_unfinished_and_odd_names(mine, tmp_path, capsys):
    assert run(mine, f'--output={tmp_path}') is None
    out = capsys.readouterr().out
    assert 'after step 2 of 4 (the run is not finished)' in out
    text = text_of(tmp_path / 'report.html')
    assert 'This run is not finished: its last checkpoint is of step 2 of 4.' in text
    assert 'Where the class of an image is not known, the predicted one is shown' in text
    assert 'Confusion matrix of the validation images' in text
    counted = re.search(r'(\d+) of (\d+) images are wrong', text)
    assert counted[2] == str(len((mine / 'validation_ids.txt').read_text().splitlines()))
    if int(counted[1]):
        assert f'{ODD[0]} → {ODD[1]}' in text or f'{ODD[1]} → {ODD[0]}' in text
    assert not re.search(r'<b>', (tmp_path / 'report.html').read_text())
    capsys.readouterr()


def test_other_weights_and_a_seed(mine, tmp_path, capsys):
    flags = ('--split=labeled', '--weights=ema', '--num_points=10')
    for folder, seed in (('one', 0), ('again', 0), ('other', 1)):
        assert run(mine, *flags, f'--seed={seed}', f'--output={tmp_path / folder}') is None
    text = text_of(tmp_path / 'one' / 'report.html')
    assert 'Confusion matrix of the labeled images' in text
    assert '(EMA weights)' in text
    one, again, other = (contents(tmp_path / folder) for folder in ('one', 'again', 'other'))
    named = [
        {path.name: re.sub(rb'Drawn on [^<]*', b'', content) for path, content in files.items()}
        for files in (one, again, other)
    ]
    for name in ('tsne.png', 'confusion.png', 'report.html'):
        assert named[0][name] == named[1][name]
    assert named[0]['tsne.png'] != named[2]['tsne.png']
    assert named[0]['confusion.png'] == named[2]['confusion.png']
    capsys.readouterr()


BAD = {
    '': 'name the folders of runs',
    'nowhere': "nowhere does not exist; name a run's folder",
    'empty': "empty holds no run (no config.json); name a run's folder",
    'RUN nowhere': 'nowhere does not exist',
    'RUN MINE': 'has other classes than',
    'RUN --split=tset': 'value should be one of <test|validation|labeled|unlabeled>',
    'RUN --split=validation': 'has no validation images; choose another of test, ',
    'MINE --split=test': 'has no test images; choose another of test, validation',
    'MINE --split=unlabeled': 'the labels of its unlabeled images are not known; choose another --split',
    'RUN --weights=first': 'value should be one of <last|best|ema|best_ema|reported>',
    'RUN --num_points=3': '--num_points=3: 3 is not integer >= 10',
    'RUN --seed=-1': 'flag --seed=-1: -1 is not an integer in the range',
    'RUN --output=file': 'file is a file; name another folder',
    'RUN --poinst=3': "Unknown command line flag 'poinst'",
    'NO_CHECKPOINT': 'holds no checkpoint yet',
    'DAMAGED': 'cannot be read',
}


@pytest.mark.parametrize('args', BAD)
def test_bad_input_ends_in_one_line_and_nothing_is_written(
    trained, mine, tmp_path, monkeypatch, capsys, args
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('a file')
    for name in ('NO_CHECKPOINT', 'DAMAGED'):
        if name in args:
            shutil.copytree(mine, tmp_path / name)
    if 'NO_CHECKPOINT' in args:
        shutil.rmtree(tmp_path / 'NO_CHECKPOINT' / 'checkpoints')
    for path in (tmp_path / 'DAMAGED').rglob('checkpoints/2/state/**/*'):
        if path.is_file():
            path.write_bytes(b'damaged')
    before = contents(tmp_path), contents(trained[0]), contents(mine)
    line = run(*args.replace('RUN', str(trained[0])).replace('MINE', str(mine)).split())
    assert line.startswith('error: ')
    assert BAD[args] in line
    assert '\n' not in line
    assert (contents(tmp_path), contents(trained[0]), contents(mine)) == before
    capsys.readouterr()


@pytest.fixture
def reviewed(mine, tmp_path):
    """The run, its images moved and four unlabeled ones reviewed into labeled/."""
    images = shutil.copytree(mine.parent / 'mine', tmp_path / 'mine')
    for i in range(4):
        (images / 'unlabeled' / f'{i}.png').rename(images / 'labeled' / ODD[0] / f'new{i}.png')
    (images / 'labeled' / ODD[0] / '0.png').unlink()
    return images


def test_after_images_were_reviewed_as_the_guide_says(mine, reviewed, tmp_path, capsys):
    held_out = (mine / 'validation_ids.txt').read_text().splitlines()
    gone = 'validation' if f'labeled/{ODD[0]}/0.png' in held_out else 'labeled'
    assert run(mine, f'--data_path={reviewed}', f'--output={tmp_path / "out"}', '--num_points=10') is None
    line = next(line for line in capsys.readouterr().out.splitlines() if 'have changed' in line)
    assert '4 labeled images are new, and left out; 1 of its ' in line
    assert f'{gone} images are gone; its splits are what is left of them' in line
    text = text_of(tmp_path / 'out' / 'report.html')
    assert f'he images have changed since {mine}' in text
    assert ' 8 unlabeled, ' in text


def test_without_any_image_to_judge_by(mine, reviewed, tmp_path, capsys):
    for name in (mine / 'validation_ids.txt').read_text().splitlines():
        (reviewed / name).unlink(missing_ok=True)
    assert run(mine, f'--data_path={reviewed}', f'--output={tmp_path / "out"}', '--num_points=10') is None
    text = text_of(tmp_path / 'out' / 'report.html')
    assert 'No test or validation image is left, so no error can be shown.' in text
    names = {path.name for path in (tmp_path / 'out').glob('*.png')}
    assert names == {'tsne.png', 'unlabeled.png'}
    capsys.readouterr()


def test_names_of_runs():
    base = {'method.name': 'metasemi', 'data.name': 'digits', 'seed': 0, 'log_every': 1}
    assert run_names([base], ['a']) == ['metasemi, digits, seed 0']
    assert run_names([base | {'method.mixup': False}], ['a']) == ['metasemi, mixup=False, digits, seed 0']
    # A run of a version with one method names none; None is the method's own value.
    old = {name: value for name, value in base.items() if name != 'method.name'} | {'method.meta': True}
    assert run_names([old], ['a']) == ['metasemi, digits, seed 0']
    assert run_names([base, old], ['a', 'b']) == ['metasemi (a)', 'metasemi (b)']
    others = [base, base | {'method.meta': False, 'log_every': 2}]
    assert run_names(others, ['a', 'b']) == ['metasemi, meta=True', 'metasemi, meta=False']
    assert run_names([base, base | {'seed': 1}], ['a', 'b']) == ['metasemi, seed=0', 'metasemi, seed=1']
    # Options that another method does not have tell nothing.
    fixmatch = base | {'method.name': 'fixmatch', 'method.threshold': 0.9}
    assert run_names([base, fixmatch], ['a', 'b']) == ['metasemi', 'fixmatch']
    two = [fixmatch, fixmatch | {'method.threshold': 0.8}, base]
    assert run_names(two, 'abc') == ['fixmatch, threshold=0.9', 'fixmatch, threshold=0.8', 'metasemi']
    assert run_names([base | {'method.name': 'my/own.py:sharp'}], ['a']) == ['own.py:sharp, digits, seed 0']
    many = base | {f'x{i}': i for i in range(9)}
    assert run_names([base, many], ['a', 'b'])[1] == 'metasemi, x0=0, x1=1, x2=2, x3=3, …'


def test_as_a_user_types_it(tmp_path):
    command = [sys.executable, '-m', 'metasemi_jax.visualize']
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    options = {'capture_output': True, 'text': True, 'cwd': tmp_path, 'env': environment, 'timeout': 120}
    helped = subprocess.run([*command, '--help'], **options)
    assert (helped.returncode, helped.stderr) == (0, '')
    for flag in ('num_points', 'seed', 'output', 'split', 'weights', 'data_path', 'data_dir', 'manual_dir'):
        assert f'--{flag}:' in helped.stdout
    wrong = subprocess.run([*command, 'nowhere'], **options)
    assert (wrong.returncode, wrong.stdout) == (1, '')
    assert wrong.stderr.count('\n') == 1


@pytest.mark.skipif(not shutil.which('chromium'), reason='there is no chromium')
def test_a_browser_complains_of_nothing(mine, tmp_path, capsys):
    """The page forbids every request: one that it made would be an error on the console."""
    assert run(mine, f'--output={tmp_path}', '--num_points=10') is None
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--dump-dom']
    flags += [f'--user-data-dir={tmp_path / "profile"}', '--enable-logging=stderr']
    command = ['chromium', *flags, (tmp_path / 'report.html').as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert 'Confusion matrix' in process.stdout
    assert 'CONSOLE' not in process.stderr
    capsys.readouterr()


def test_pictures_of_others_are_not_written_over(trained, tmp_path):
    """Of a paper, say, whose figures lie where its text is."""
    workdir, _ = trained
    for name in ('report.html', 'tsne.png', 'curves.pdf'):
        file = tmp_path / name / name
        file.parent.mkdir()
        file.write_text('mine')
        assert f'{file} was not written by this command; name another folder' in run(
            workdir, f'--output={file.parent}'
        )
        assert contents(file.parent) == {file: b'mine'}
    file = tmp_path / 'several' / 'run_2' / 'curves.png'
    file.parent.mkdir(parents=True)
    file.write_text('mine')
    other = shutil.copytree(workdir, tmp_path / 'run')
    assert f'{file} was not written' in run(workdir, other, f'--output={tmp_path}/several')


def test_the_page_comes_first(tmp_path):
    """A start that was killed between two files left what the next one knows as its own."""
    target = tmp_path / 'figures'
    (target / 'curves.png').mkdir(parents=True)
    page = html_report('a run', []).encode()
    with pytest.raises(UserError, match='cannot be written'):
        visualize._write(target, {'curves.png': b'', 'report.html': page})
    assert (target / 'report.html').read_bytes() == page
    (target / 'curves.png').rmdir()
    (target / 'curves.png').write_text('ours')
    visualize._check_output(target, [''])


def test_names_are_legible_in_every_locale():
    """With LC_ALL=C, too, where os.fsencode refuses all letters but English ones."""
    escaped = 'größe'.encode().decode('ascii', 'surrogateescape')
    for name, shown in (
        ('größe 8×8', 'größe 8×8'),
        (escaped, 'größe'),
        (os.fsdecode(b'a\xff'), 'a\ufffd'),
        ('\ud800', '?'),
    ):
        assert printable(name) == shown
    assert '<h1>größe 8×8</h1>' in html_report(f'{escaped} 8×8', [])
