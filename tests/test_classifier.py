import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.classifier import WEIGHTS, load_classifier, predict_batches, predict_images
from metasemi_jax.config.form import flatten
from metasemi_jax.data.batches.views import make_normalize
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.files import write_json
from metasemi_jax.models import create_model, init_variables, variable_shapes
from metasemi_jax.training.evaluate import make_evaluate, place_eval_data
from metasemi_jax.training.experiment import build_model
from metasemi_jax.training.experiment_data import load_data
from small_runs import contents, make_run, read_state, tiny_config

CONFIG = tiny_config(ema_decay=0.9, total_steps=12)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Of 12 steps, stopped after the 10th; the 4th was the best, the last two were kept."""
    return make_run(tmp_path_factory.mktemp('run'), CONFIG, {4: 5.0, 6: 7.0, 8: 6.0, 10: None})


@pytest.fixture(scope='module')
def digits():
    return load_data(CONFIG)


@pytest.mark.parametrize(('weights', 'step'), [('last', 10), ('best', 4), ('ema', 10), ('best_ema', 4)])
def test_weights(run, weights, step):
    classifier = load_classifier(run, weights=weights)
    assert classifier.step == step
    saved, prefix = read_state(run, step), '.ema' if 'ema' in weights else ''
    for name in ('params', 'batch_stats'):
        for path, leaf in jax.tree_util.tree_leaves_with_path(classifier.variables[name]):
            where = jax.tree_util.keystr(path)
            where = f"['ema']['{name}']{where}" if prefix else f"['{name}']{where}"
            np.testing.assert_array_equal(leaf, saved[where], err_msg=where)
    assert f'{WEIGHTS[weights]}, after step {step} of 12 (the run is not finished)' in classifier.description


def test_reported_weights_are_the_runs_own(tmp_path):
    workdir = make_run(tmp_path / 'run', CONFIG, {12: 5.0})
    assert load_classifier(workdir).weights == 'last'  # not finished
    for reported, weights in (('raw', 'last'), ('ema', 'ema')):
        write_json(
            workdir / 'results.json', {'steps': 12, 'test_error_last': 5.0, 'reported_weights': reported}
        )
        assert load_classifier(workdir).weights == weights
        assert load_classifier(workdir, weights='last').weights == 'last'
    write_json(workdir / 'results.json', {'steps': 12, 'test_error_last': 5.0})  # of an older version
    assert load_classifier(workdir).weights == 'last'


def test_what_the_network_takes(run, digits):
    classifier = load_classifier(run)
    assert classifier.class_names == tuple('0123456789')
    assert classifier.input_spec.image_shape == digits.image_shape == (8, 8, 1)
    np.testing.assert_allclose(classifier.input_spec.mean, digits.train_images.mean() / 255, rtol=1e-12)
    np.testing.assert_allclose(classifier.input_spec.std, digits.train_images.std() / 255, rtol=1e-12)
    assert flatten(classifier.config) == flatten(CONFIG)


def test_the_error_is_that_of_evaluate(run, digits):
    """To the digit, for the last batch is filled up in both; and the probabilities are the network's."""
    classifier = load_classifier(run)
    predictions = predict_images(classifier, digits.test_images, batch_size=64, with_features=True)
    scale, mesh = make_normalize(classifier.input_spec), make_mesh()
    evaluate = make_evaluate(classifier.model, scale, mesh)
    data = place_eval_data(digits.test_images, digits.test_labels, batch_size=64, mesh=mesh)
    wrong = (predictions.classes != digits.test_labels).sum()
    assert 100 * wrong / 500 == evaluate(classifier.variables, data)['error']

    images = scale(jnp.asarray(digits.test_images))
    logits, features = classifier.model.apply(classifier.variables, images, train=False, return_features=True)
    np.testing.assert_allclose(predictions.probs, jax.nn.softmax(logits), atol=1e-6)
    np.testing.assert_allclose(predictions.features, features, atol=1e-5)
    np.testing.assert_allclose(predictions.probs.sum(-1), 1, rtol=1e-5)


def test_images_of_another_form_are_refused_and_the_text_has_no_weights(run):
    classifier = load_classifier(run)
    for images in (np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8), np.uint8)):
        with pytest.raises(UserError, match=r'takes images of uint8 \[N, 8, 8, 1\], N at least 1, not'):
            predict_images(classifier, images)
    assert repr(classifier) == f'Classifier({classifier.description})'


def test_batches_of_any_size_in_order_and_one_trace(run, digits, monkeypatch):
    classifier = load_classifier(run)
    traces = []

    def counting(spec):
        def counted(images):
            traces.append(images.shape)
            return make_normalize(spec)(images)

        return counted

    monkeypatch.setattr('metasemi_jax.classifier.make_normalize', counting)
    images = digits.test_images[:23]
    whole = predict_images(classifier, images, batch_size=23)
    assert traces == [(23, 8, 8, 1)]
    asked = []

    def batches():
        for start, end in ((0, 5), (5, 13), (13, 14), (14, 22), (22, 23)):
            asked.append(start)
            yield images[start:end]

    parts = []
    for part in predict_batches(classifier, batches(), batch_size=8):
        parts.append(part)
        # The next batch is asked for before this one is waited for, and no other.
        assert len(asked) == min(len(parts) + 1, 5)
        assert part.features is None
        assert isinstance(part.probs, np.ndarray)
    assert [len(part.classes) for part in parts] == [5, 8, 1, 8, 1]
    assert traces == [(23, 8, 8, 1), (8, 8, 8, 1)]
    np.testing.assert_allclose(np.concatenate([p.probs for p in parts]), whole.probs, atol=1e-6)


def test_nothing_is_written_and_what_a_running_run_writes_stays(run):
    unfinished = run / 'checkpoints' / '11.orbax-checkpoint-tmp'
    unfinished.mkdir()
    (unfinished / 'half').write_text('written')
    before = contents(run)
    load_classifier(run)
    assert contents(run) == before
    (unfinished / 'half').unlink()
    unfinished.rmdir()


def refused(run, message, **options):
    before = contents(run)
    with pytest.raises(UserError, match=message) as caught:
        load_classifier(run, **options)
    assert '\n' not in str(caught.value)
    assert contents(run) == before


def test_missing_things_are_named(tmp_path):
    config = tiny_config(total_steps=4)
    run = make_run(tmp_path / 'run', config)
    refused(tmp_path / 'nowhere', 'nowhere does not exist; name a run')
    refused(tmp_path, 'holds no run .no config.json.; name a run')
    refused(run, "weights 'first' are unknown; choose one of last, best, ema, best_ema", weights='first')
    refused(run, "keeps no EMA weights .its ema_decay is 0., .* no 'ema' weights; use last or", weights='ema')
    refused(run, 'holds no evaluated checkpoint yet', weights='best')
    for name in ('input.json', 'class_names.json'):
        text = (run / name).read_text()
        (run / name).unlink()
        refused(run, f'{name} is missing, as in runs of older versions .*; start the command that trained')
        (run / name).write_text('{"image_shape": 3}')
        refused(run, f'{name} is damaged')
        (run / name).write_text(text)
    (run / 'config.json').write_text(json.dumps({'seed': 1}))
    refused(run, "config.json lacks 'data.crop'")
    (run / 'config.json').write_text('{')
    refused(run, 'config.json is damaged')


def test_no_checkpoint(tmp_path):
    run = make_run(tmp_path / 'run', tiny_config())
    os.rename(run / 'checkpoints', tmp_path / 'away')
    refused(run, 'holds no checkpoint yet; a run writes them')
    (run / 'checkpoints').mkdir()
    refused(run, 'holds no checkpoint yet; a run writes them')


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = make_run(tmp_path / 'run', tiny_config(), {2: 50.0, 4: 60.0})
    for path in (run / 'checkpoints' / '4' / 'state').rglob('*'):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(run, 'the checkpoint .*/4 cannot be read')
    assert load_classifier(run, weights='best').step == 2


def test_a_config_of_an_older_version_serves(tmp_path):
    run = make_run(tmp_path / 'run', tiny_config())
    config = json.loads((run / 'config.json').read_text())
    del config['steps_per_call'], config['data']['memory_budget']
    (run / 'config.json').write_text(json.dumps(config | {'added_later': 1}))
    assert load_classifier(run).step == 12


def test_shapes_without_computing():
    model = create_model('conv_small', 3, width=4)
    shapes = variable_shapes(model, (16, 16, 3))
    variables = init_variables(model, jax.random.key(0), (16, 16, 3))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )


def test_the_dtype_is_what_training_takes_here():
    _, dtype = build_model(tiny_config(), 10)
    assert dtype == (jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16)
    assert build_model(tiny_config(dtype='bfloat16'), 10)[1] == jnp.bfloat16
