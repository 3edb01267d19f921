"""A fitted classifier as the folder of a run, and the notebook that makes one."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ml_collections import ConfigDict

from metasemi_jax.classifier import load_classifier, predict_images
from metasemi_jax.command.advice import with_flags
from metasemi_jax.config.fields import FIELDS
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import find_split, load_run_data
from metasemi_jax.progress import ProgressLine, say
from metasemi_jax.sklearn import MetaSemiClassifier
from metasemi_jax.training.loop import train_and_evaluate
from small_runs import ROOT, tiny_config

NOTEBOOK = ROOT / 'examples' / 'own_images.ipynb'
MOST_BYTES = 300_000


@pytest.fixture(scope='module')
def fitted():
    """A classifier of two kinds of digits, as floats of 0 to 16, with the images that it saw."""
    data = load_dataset('digits')
    images = np.float32(data.train_images[:60, ..., 0]) * (16 / 255)
    y = np.where(np.arange(60) < 20, np.array(['egg', 'spoon'])[np.arange(60) % 2], '-1')
    # The method that compiles in the shortest time.
    options = {'method': 'supervised', 'settings': {'model.width': 2}}
    classifier = MetaSemiClassifier(total_steps=4, batch_size=4, random_state=0, **options)
    return classifier.fit(images, y), images, y


def test_a_saved_fit_is_a_run(fitted, tmp_path):
    classifier, images, y = fitted
    classifier.save(tmp_path / 'run', images[:50], y[:50], X_unlabeled=images[50:])
    loaded = load_classifier(tmp_path / 'run')
    assert loaded.class_names == ('egg', 'spoon')
    assert 'not finished' not in loaded.description
    data = load_run_data(loaded)
    assert data.changes == ''
    assert find_split(data, 'labeled').labels.tolist() == [0, 1] * 10
    unlabeled = find_split(data, 'unlabeled')
    assert len(unlabeled.positions) == 40
    probs = predict_images(loaded, data.dataset.train_images).probs
    np.testing.assert_allclose(probs, classifier.predict_proba(images), atol=1e-6)


def test_a_saved_fit_is_not_trained_on(fitted, tmp_path):
    """It has no images to evaluate on, and its optimizer's state is gone."""
    classifier, images, y = fitted
    classifier.save(tmp_path / 'run', images, y)
    config = ConfigDict(json.loads((tmp_path / 'run' / 'config.json').read_text()))
    advice = f'was fitted in memory.*name another folder, and add model.init_from={tmp_path}/run'
    with pytest.raises(UserError, match=advice):
        train_and_evaluate(config, tmp_path / 'run')
    assert load_classifier(tmp_path / 'run').step == 4


def test_without_its_images_the_network_is_saved(fitted, tmp_path):
    classifier, images, _ = fitted
    classifier.save(tmp_path / 'run')
    loaded = load_classifier(tmp_path / 'run')
    pixels = np.uint8(np.round(images * (255 / 16)))[..., None]
    probs = predict_images(loaded, pixels).probs
    np.testing.assert_allclose(probs, classifier.predict_proba(images), atol=1e-6)
    assert not (tmp_path / 'run' / 'images.npz').exists()


def test_what_cannot_be_saved(fitted, tmp_path):
    classifier, images, y = fitted
    other = np.where(y == 'egg', 'fork', y)
    with pytest.raises(
        ValueError, match=r"of the classes \['fork', 'spoon'\], fit was given \['egg', 'spoon'\]"
    ):
        classifier.save(tmp_path / 'run', images, other)
    with pytest.raises(ValueError, match='requires y to be passed'):
        classifier.save(tmp_path / 'run', images)
    with pytest.raises(ValueError, match='kept with X, which is missing'):
        classifier.save(tmp_path / 'run', y=y)
    with pytest.raises(ValueError, match=r'are of shape \[7, 8\], those of fit were of \[8, 8\]'):
        classifier.save(tmp_path / 'run', images[:, 1:], y)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'mine').write_text('mine')
    for folder in (tmp_path, tmp_path / 'mine'):
        with pytest.raises(ValueError, match='name a new folder'):
            classifier.save(folder)
    assert (tmp_path / 'mine').read_text() == 'mine'


def test_the_notebook_runs(capsys):
    """With two steps of the method that compiles soonest."""
    plt.switch_backend('agg')
    short = "total_steps=2, method='supervised', settings={'model.width': 2}"
    names, figures = {}, 0
    for cell in _cells('code'):
        exec(''.join(cell['source']).replace('total_steps=1000', short), names)
        figures += len(plt.get_fignums())
        plt.close('all')
    assert figures == len(
        [o for cell in _cells('code') for o in cell['outputs'] if 'image/png' in o.get('data', {})]
    )
    assert (names['folder'] / 'digits.json').is_file()
    assert names['reviewed'].config_['total_steps'] == 2
    assert 'test error' in capsys.readouterr().out


def test_the_notebook_shows_what_it_printed():
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    cells = _cells('code')
    assert [cell['execution_count'] for cell in cells] == [*range(1, len(cells) + 1)]
    kinds = [output['output_type'] for cell in cells for output in cell['outputs']]
    assert 'error' not in kinds
    text = json.dumps([cell['outputs'] for cell in cells])
    assert text.count('test error') == 3
    # Nothing of the machine that it ran on.
    assert not re.search(r'/home/|/tmp/|site-packages|\x1b', text)


def _cells(kind):
    return [cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == kind]


class TestALibraryIsSilent:
    @pytest.fixture(autouse=True)
    def _speaking(self):
        """In the place of conftest's, which speaks as a command does."""

    def test_lines_and_progress(self, capsys):
        say('a line')
        line = ProgressLine()
        line.show('progress')
        line.say('another')
        line.close()
        assert not line.in_place
        assert capsys.readouterr() == ('', '')

    def test_a_fit_and_a_run(self, fitted, tmp_path, capsys):
        _, images, y = fitted
        options = {'method': 'supervised', 'settings': {'model.width': 2}}
        MetaSemiClassifier(total_steps=2, batch_size=4, random_state=0, **options).fit(images, y)
        train_and_evaluate(tiny_config(total_steps=2), str(tmp_path / 'run'))
        assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('message', 'spelled'),
    [
        ('it has 5; add data.num_labels=5', 'it has 5; add --config.data.num_labels=5'),
        ('add config=configs/folder.py', 'add --config=configs/folder.py'),
        ('workdir=/a/workdir=b holds a run', '--workdir=/a/workdir=b holds a run'),
        ('start again in a new workdir', 'start again in a new --workdir'),
        (
            'with data.data_dir= and data.manual_dir=',
            'with --config.data.data_dir= and --config.data.manual_dir=',
        ),
        ('num_processes and process_id must be given', '--num_processes and --process_id must be given'),
        ('a smaller data.num_workers=', 'a smaller --config.data.num_workers='),
        # What a setting is stays its name.
        ('seed=x must be a number', 'seed=x must be a number'),
        ('not used with data.name=digits', 'not used with data.name=digits'),
        ('batch_size=1 and unlabeled_ratio=2 are', 'batch_size=1 and unlabeled_ratio=2 are'),
        ('add no_field=1', 'add no_field=1'),
        ('process 0', 'process 0'),
    ],
)
def test_a_command_spells_names_as_flags(message, spelled):
    assert with_flags(message, lambda name: name in FIELDS) == spelled
