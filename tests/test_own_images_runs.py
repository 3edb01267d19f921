"""Training on one's own images, as a user types it and in this process."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.classifier import load_classifier
from metasemi_jax.data.identity import _first_version
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import load_run_data
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.experiment_data import choose_split, load_data
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recorder import Recorder
from own_images import own_config, own_flags, random_pixels, write_folder, write_image
from small_runs import ROOT, assert_same_state, contents, main_of, make_run, read_log, read_state, run_main

# In bash: notes in the folder $NOTES what each `python` is given, and starts none.
NOTE = """
python() {
    noted=$((${noted:-0} + 1))
    printf '%s\\0' "$@" > "$NOTES/$noted"
    if [ "$1" = - ]; then cat > "$NOTES/$noted.py"; fi
}
head() { :; }
"""


def typed(text, notes, **environment):
    """(arguments, program on stdin or '') of every `python` in the bash blocks of a page."""
    blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
    subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', NOTE + ''.join(blocks)],
        env=os.environ | environment | {'NOTES': str(notes)},
        check=True,
    )
    for number in sorted(int(path.name) for path in notes.iterdir() if not path.suffix):
        program = notes / f'{number}.py'
        arguments = (notes / str(number)).read_text().split('\0')[:-1]
        yield arguments, program.read_text() if program.exists() else ''


def do(arguments, program):
    """What `python ARGUMENTS < PROGRAM` does, in this process: to start ten takes a minute."""
    sys.argv = list(arguments)
    if arguments == ['-']:
        exec(compile(program, 'typed', 'exec'), {'__name__': '__main__'})
    elif arguments[0] == '-m':
        main_of(arguments[1].removeprefix('metasemi_jax.'))(arguments[1:])
    else:
        # The network that compiles soonest, and narrow: test_recipe.py lets the recipe choose its own.
        small = ['--config.model.name=mlp', '--config.model.width=4']
        main_of(arguments[0].removesuffix('.py'))([*arguments, *small])


@pytest.fixture(scope='module')
def documented(tmp_path_factory):
    """A folder in which every command of docs/own_images.md was typed, and what they printed."""
    here = tmp_path_factory.mktemp('documented')
    text = (ROOT / 'docs' / 'own_images.md').read_text()
    assert 'type `export STEPS=20` first' in text
    commands = list(typed(text, tmp_path_factory.mktemp('notes'), STEPS='4'))
    assert len(commands) > 10
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(here)
        patch.setattr('sys.argv', sys.argv)
        for command in commands:
            do(*command)
    return here, printed.getvalue()


def test_the_documented_commands_train(documented):
    here, printed = documented
    runs = {'mine', 'reviewed', 'list', 'arrays', 'ten'}
    assert {path.name for path in (here / 'runs').iterdir()} == runs
    assert printed.count('there is no test set') == 1
    for name in runs:
        results = json.loads((here / 'runs' / name / 'results.json').read_text())
        has_test_set = name != 'arrays'
        assert results['steps'] == 4
        assert ('test_error_last' in results) == ('ema_test_error_best' in results) == has_test_set
        assert ('validation_error_last' in results) == (not has_test_set)
        assert results['num_held_out'] == (0 if has_test_set else 20)
        names = json.loads((here / 'runs' / name / 'class_names.json').read_text())
        assert names == list('0123456789')
    ids = {name: (here / 'runs' / name / 'labeled_ids.txt').read_text().split() for name in runs}
    assert len(ids['mine']) == 100
    assert len(ids['reviewed']) == 120
    assert len(ids['ten']) == 10
    assert sorted(ids['list']) == sorted(ids['reviewed'])
    assert len(ids['arrays']) == 80


def test_a_finished_run_names_its_images_if_others_are_given(documented, monkeypatch, capsys):
    monkeypatch.chdir(documented[0])
    monkeypatch.setattr('sys.argv', sys.argv)
    short = ['--config=configs/folder.py', '--workdir=runs/mine', '--config.total_steps=4']
    do(['main.py', *short, '--config.data.path=mine'], '')
    assert 'this run is finished\n' in capsys.readouterr().out
    do(['main.py', *short, '--config.data.path=yours'], '')
    said = capsys.readouterr().out
    assert 'finished, on the images of mine; to train on those of yours, name another --workdir\n' in said


def test_the_documented_commands_predict(documented):
    here, printed = documented

    def rows(name):
        with (here / name).open(newline='') as file:
            return list(csv.DictReader(file))

    assert len(rows('predictions.csv')) == 401
    unlabeled = rows('runs/mine/predictions_unlabeled.csv')
    assert len(unlabeled) == 1297
    assert all(
        (here / 'mine/labeled' / row['predicted'] / Path(row['path']).name).exists() for row in unlabeled[:20]
    )
    assert not any((here / 'mine' / row['path']).exists() for row in unlabeled[:20])
    results = json.loads((here / 'runs/mine/results.json').read_text())
    prefix = 'ema_' if results['reported_weights'] == 'ema' else ''
    error = results[f'{prefix}test_error_last']
    assert f'test error {error:.2f}% (' in printed
    assert (here / 'runs/reviewed/classifier.jax_export').exists()


def test_the_picture_of_the_folder_is_the_layout():
    text = (ROOT / 'docs' / 'own_images.md').read_text()
    header = (ROOT / 'configs' / 'folder.py').read_text()
    for part in ('labeled/', 'unlabeled/**', 'test/', 'val/'):
        assert part in text
        assert part in header


def test_pools_and_counts(tmp_path):
    write_folder(tmp_path, labeled=(9, 2), unlabeled=30)
    experiment = build_experiment(own_config(tmp_path, data__num_validation=4, batch_size=16), make_mesh())
    assert experiment.description.startswith(
        'own_images: 7 labeled, 30 unlabeled, 4 validation, 4 test images of 2 classes; mlp, '
    )
    assert '8×8×3 pixels' in experiment.description
    assert sum(name.startswith('labeled/dog/') for name in experiment.split.labeled) == 1
    # Seven labels fill batches of sixteen, again and again.
    labeled, unlabeled = zip(*(next(experiment.pipeline.host_batches(s)) for s in range(30)), strict=True)
    labeled, unlabeled = np.concatenate(labeled), np.concatenate(unlabeled)
    _, labels, *pools = map(np.asarray, experiment.pipeline.device_data)
    # The host sends places in the two pools.
    labeled, unlabeled = pools[0][labeled], pools[1][unlabeled]
    assert len(set(labeled)) == 7
    assert len(set(unlabeled)) == 30
    assert (labels[labeled] >= 0).all()
    assert (labels[unlabeled] == -1).all()


def test_validation_chooses_the_checkpoint(tmp_path):
    write_folder(tmp_path / 'mine', labeled=(9, 9), unlabeled=20, test=5, val=4)
    config = own_config(tmp_path / 'mine', total_steps=10, eval_every=1, log_every=1, checkpoint_every=100)
    results = train_and_evaluate(config, tmp_path / 'run')
    log = [line for line in read_log(tmp_path / 'run') if 'validation/error' in line]
    assert [line['step'] for line in log] == list(range(1, 11))
    for prefix in ('', 'ema_'):
        validation = [line[f'validation/{prefix}error'] for line in log]
        test = [line[f'test/{prefix}error'] for line in log]
        best = max(i for i, error in enumerate(validation) if error == min(validation))
        assert results[f'{prefix}test_error_best_on_validation'] == test[best]
        assert results[f'{prefix}validation_error_last'] == validation[-1]
        if not prefix:
            assert results['best_checkpoint'] == {'step': best + 1, 'selected_on': 'validation'}
            read_state(tmp_path / 'run', best + 1)  # it was kept
    assert results['selected_on_test_set'] == ['test_error_best', 'ema_test_error_best']


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run without a test set that died after its first checkpoint: its images and its folder."""

    def die(recorder, at):
        raise RuntimeError('died')

    write_folder(tmp_path / 'mine', labeled=(6, 6), test=0)
    monkeypatch.setattr(Recorder, 'show', die)
    with pytest.raises(RuntimeError, match=r'died'):
        train_and_evaluate(own_config(tmp_path / 'mine', eval_every=2), tmp_path / 'run')
    monkeypatch.undo()
    return tmp_path / 'mine', tmp_path / 'run'


def test_a_run_continues_where_its_images_have_moved(interrupted, tmp_path):
    images, run = interrupted
    held_out = (run / 'validation_ids.txt').read_text()
    assert len(held_out.splitlines()) == 2
    train_and_evaluate(own_config(images), tmp_path / 'undisturbed')
    images.rename(tmp_path / 'moved')
    results = train_and_evaluate(own_config(tmp_path / 'moved', data__memory_budget=10**7), run)
    assert results['num_held_out'] == 2
    assert (run / 'validation_ids.txt').read_text() == held_out
    assert_same_state(read_state(tmp_path / 'undisturbed'), read_state(run))


def test_other_images_are_refused(interrupted):
    images, run = interrupted
    before = contents(run / 'checkpoints')
    write_image(images / 'unlabeled' / 'new.png', 500)
    with pytest.raises(UserError, match=r'the images have changed since .*: some were added, removed'):
        train_and_evaluate(own_config(images), run)
    assert contents(run / 'checkpoints') == before
    shutil.rmtree(images / 'labeled' / 'cat')
    write_image(images / 'labeled' / 'cat' / 'other.png')
    with pytest.raises(UserError, match=r'the split names . images that the dataset does not hold'):
        train_and_evaluate(own_config(images), run)


def test_changed_images_are_refused_by_training_and_predict(interrupted):
    images, run = interrupted
    before = contents(run)
    image = images / 'unlabeled' / 'sub0' / '0.png'
    content = image.read_bytes()
    for changed in (random_pixels(999), random_pixels(998)[..., 0]):
        Image.fromarray(changed).save(image)
        with pytest.raises(UserError, match=r'have changed since .*: some were added, .*relabeled, replaced'):
            train_and_evaluate(own_config(images), run)
        with pytest.raises(UserError, match=r'have changed since .*relabeled or replaced'):
            load_run_data(load_classifier(str(run)))
    image.write_bytes(content)
    assert not load_run_data(load_classifier(str(run))).changes
    assert contents(run) == before


def test_an_image_that_has_lost_its_label_is_refused(tmp_path):
    """Of a run of an earlier version too, whose sum does not see it: -1 would train as the last class."""
    x = np.stack([random_pixels(i) for i in range(12)])
    y = np.array([0, 1, 0, 1, 0, 1, -1, -1, -1, -1, 0, 1])
    np.savez(tmp_path / 'a.npz', x=x, y=y)
    config = own_config(tmp_path / 'a.npz')
    split = choose_split(config, load_data(config))
    y[int(split.labeled[0])] = -1
    np.savez(tmp_path / 'a.npz', x=x, y=y)
    with pytest.raises(UserError, match=rf"1 images without a label, the first '{split.labeled[0]}'"):
        choose_split(config, load_data(config), split)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """It recorded ids and class names alone."""
    write_folder(tmp_path / 'mine', test=0)
    config = own_config(tmp_path / 'mine')
    workdir = make_run(tmp_path / 'run', config)
    experiment = build_experiment(config, make_mesh())
    old = _first_version(load_data(config), experiment.split.validation)
    assert old != experiment.data_sha256
    for recorded, same in ((old, True), (experiment.data_sha256, True), (old[::-1], False), (None, True)):
        assert experiment.is_same_data(recorded) == same
    classifier = load_classifier(str(workdir))
    classifier.record['data_sha256'] = old
    assert not load_run_data(classifier).changes


def test_settings_that_the_images_do_not_allow(tmp_path):
    """Each in one line, before anything is written."""
    write_folder(tmp_path / 'mine')
    split = tmp_path / 'split.txt'
    split.write_text('labeled/cat/0.png\nlabeled/cat/1.png\n')
    for options, message in (
        (
            {'data__num_labels': 20},
            r'10 labels of class 0, which has 4 images with one; use at most 6',
        ),
        (
            {'data__image_size': 100_000},
            r"step's 8 images of 100000×100000×3 take .* bytes, and this",
        ),
        ({'data__pad': 20_000}, r'data.pad=20000: a crop of images of 8×8 could show nothing .*at most 7'),
        ({'data__pad': 8}, r'at most 7'),
        ({'data__split_file': str(split)}, r'names no image of 1 of 2 classes \(dog\)'),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train_and_evaluate(own_config(tmp_path / 'mine', **options), tmp_path / 'run')
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()
    for mode in ('black', 'reflect'):
        build_experiment(own_config(tmp_path / 'mine', data__pad=7, data__pad_mode=mode), make_mesh())


def test_another_split_file_is_refused(interrupted, tmp_path):
    images, run = interrupted
    split = tmp_path / 'split.txt'
    split.write_text('labeled/cat/0.png\nlabeled/dog/0.png\n')
    with pytest.raises(UserError, match=r'is not the split that this workdir began with'):
        train_and_evaluate(own_config(images, data__split_file=str(split)), run)
    split.write_text((run / 'labeled_ids.txt').read_text() + (run / 'validation_ids.txt').read_text())
    train_and_evaluate(own_config(images, data__split_file=str(split)), run)


def test_labeled_only_needs_no_unlabeled_images(tmp_path):
    write_folder(tmp_path / 'mine', unlabeled=0)
    with pytest.raises(UserError, match=r'data.num_labels=0 leaves no unlabeled image'):
        train_and_evaluate(own_config(tmp_path / 'mine'), tmp_path / 'run')
    config = own_config(tmp_path / 'mine', method__meta=False, method__mixup=False)
    train_and_evaluate(config, tmp_path / 'run')


def test_bad_images_end_in_one_line_and_nothing_is_written(tmp_path):
    folder = write_folder(tmp_path / 'mine')
    (folder / 'unlabeled' / 'bad.png').write_bytes(b'not an image')
    (folder / 'labeled' / 'cat' / '0.png').write_bytes(b'')
    (tmp_path / 'ids.txt').write_text('labeled/cat/77.png\n')
    good = write_folder(tmp_path / 'good')
    unreadable = (
        '2 of 21 images cannot be read: labeled/cat/0.png (not an image, or damaged), unlabeled/bad.png'
    )
    process = run_main(f'--workdir={tmp_path}/run', *own_flags(folder), cwd=ROOT)
    assert (process.returncode, process.stdout) == (1, '')
    assert process.stderr.startswith('error: ')
    assert process.stderr.count('\n') == 1
    assert unreadable in process.stderr
    for config, message in (
        (own_config(folder), re.escape(unreadable)),
        (own_config(tmp_path / 'nowhere'), r'there is no such file or folder'),
        (own_config(good, data__num_validation=6), r'use at most data.num_validation=5'),
        (own_config(good, data__split_file=f'{tmp_path}/ids.txt'), r'does not hold: labeled/cat/77.png'),
    ):
        with pytest.raises(UserError, match=message):
            train_and_evaluate(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
