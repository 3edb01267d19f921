import json
import os
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

from metasemi_jax import export
from metasemi_jax.classifier import load_classifier, predict_images
from metasemi_jax.training.experiment_data import load_data
from own_images import own_config, write_folder
from small_runs import ROOT, contents, make_run, tiny_config


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """On digits with averaged weights, and ConvLarge on colour images."""
    here = tmp_path_factory.mktemp('runs')
    large = {'model__name': 'conv_large', 'model__width': 4, 'data__image_size': 12}
    return {
        'digits': make_run(here / 'digits', tiny_config(ema_decay=0.9)),
        'conv_large': make_run(here / 'large', own_config(write_folder(here / 'mine'), **large)),
    }


def run(*args):
    """Exit message, or None where it ended well."""
    try:
        export.main(['export', *map(str, args)])
    except SystemExit as exit_:
        return exit_.code
    return None


def images_of(classifier, count):
    shape = (count, *classifier.input_spec.image_shape)
    return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(('name', 'weights'), [('digits', 'last'), ('digits', 'ema'), ('conv_large', 'last')])
def test_probabilities_are_those_of_predict(runs, tmp_path, capsys, name, weights):
    path = tmp_path / 'mine.bin'
    assert run(f'--workdir={runs[name]}', f'--weights={weights}', f'--output={path}') is None
    assert f'written to {path} ({path.stat().st_size:,} bytes, for cpu, cuda, tpu)' in capsys.readouterr().out
    exported = jax.export.deserialize(path.read_bytes())
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    classifier = load_classifier(runs[name], weights=weights)
    images = images_of(classifier, 7)
    expected = predict_images(classifier, images).probs
    np.testing.assert_allclose(exported.call(images), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01
    about = json.loads((tmp_path / 'mine.json').read_text())
    assert about['class_names'] == list(classifier.class_names)
    assert about['image_shape'] == list(classifier.input_spec.image_shape)
    assert about['step'] == classifier.step


def test_the_example_needs_no_package_of_ours(runs, tmp_path):
    """As written in docs/predict.md, by a Python that knows neither this folder nor PYTHONPATH."""
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'mine').symlink_to(runs['digits'])
    assert run(f'--workdir={tmp_path}/runs/mine') is None
    (example,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'predict.md').read_text(), re.DOTALL)
    check = "\nimport sys\nassert not any('metasemi' in name or name == 'flax' for name in sys.modules)\n"
    command = [sys.executable, '-I', '-c', example + check]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (0, '')
    classifier = load_classifier(runs['digits'])
    images = np.zeros((3, 8, 8, 1), np.uint8)
    expected = predict_images(classifier, images)
    lines = [line.split() for line in process.stdout.splitlines()]
    assert [name for name, _ in lines] == [classifier.class_names[k] for k in expected.classes]
    np.testing.assert_allclose(
        [float(probability) for _, probability in lines], expected.probs.max(-1), atol=1e-5
    )
    assert len(example.strip().splitlines()) <= 12


def test_the_test_images_too(runs, digits_images):
    """Real images, and more than one batch of `predict`."""
    classifier = load_classifier(runs['digits'])
    exported = export.export_classifier(classifier)
    expected = predict_images(classifier, digits_images, batch_size=64).probs
    np.testing.assert_allclose(exported.call(digits_images), expected, atol=1e-5)


@pytest.fixture(scope='module')
def digits_images():
    return load_data(tiny_config()).test_images


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ('', '--workdir is missing'),
        ('--workdir=nowhere', 'nowhere does not exist'),
        ('--workdir=RUN --weights=first', 'value should be one of <last|best|ema|best_ema|reported>'),
        ('--workdir=RUN --weights=best', 'holds no evaluated checkpoint yet'),
        ('--workdir=RUN more', "unexpected argument 'more'; --help shows the flags"),
        ('--workdir=RUN --output=no/such/folder', 'cannot be written (No such file or directory)'),
        ('--workdir=RUN --output=RUN', 'is a folder or a .json file; name another file'),
        ('--workdir=RUN --output=a.json', 'is a folder or a .json file; name another file'),
    ],
)
def test_bad_input_ends_in_one_line_and_nothing_is_written(runs, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    before = contents(runs['digits'])
    line = run(*args.replace('RUN', str(runs['digits'])).split())
    assert line.startswith('error: ')
    assert message in line
    assert '\n' not in line
    assert contents(runs['digits']) == before
    assert os.listdir(tmp_path) == []
