"""A run that watches itself: silent on healthy logs, one line on sick ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.methods import Network
from metasemi_jax.training.probe import PROBED_IMAGES, make_probe, place_probe_data
from metasemi_jax.training.watch import CHECKS, Look, Warned, new_warnings

TOTAL = 1000
STEPS = range(50, TOTAL + 1, 50)


def healthy(step, **changed):
    """About what `configs/digits.py` shows: entropy 0.75 to 0.9, the labeled loss 0.09 to 0.13."""
    wave = math.sin(step)
    start = 2.0 * math.exp(-step / 60)
    look = Look(
        step=step,
        train_loss=0.4 - 0.0001 * step + start,
        labeled_loss=0.11 + 0.02 * wave + start,
        batch_statistics_loss=0.1 + 0.02 * wave + start,
        entropy=0.82 + 0.07 * wave + start,
        confidence=0.79 + 0.02 * wave - 0.3 * start,
        classes=9.8 + 0.1 * wave,
    )
    return look._replace(**changed)


def told(looks, *, num_classes=10):
    """All warnings of a run, told evaluation by evaluation as the loop does."""
    known = []
    for end in range(1, len(looks) + 1):
        known += new_warnings(looks[:end], known=known, total_steps=TOTAL, num_classes=num_classes)
    return known


def test_a_healthy_run_is_left_alone():
    assert told([healthy(step) for step in STEPS]) == []
    bare = [healthy(step, entropy=math.nan, confidence=math.nan, classes=math.nan) for step in STEPS]
    assert told(bare) == []


def test_the_start_of_a_run_is_not_judged():
    # Running statistics of momentum 0.999, and a first network that names one class.
    looks = [healthy(step) for step in STEPS]
    looks[:3] = [
        look._replace(labeled_loss=9.0, classes=1.0, entropy=0.1, confidence=1.0) for look in looks[:3]
    ]
    assert told(looks) == []


def test_one_odd_evaluation_says_nothing():
    looks = [healthy(step) for step in STEPS]
    looks[10] = looks[10]._replace(labeled_loss=5.0, classes=1.0, entropy=2.2, confidence=0.2)
    assert told(looks) == []


@pytest.mark.parametrize(
    ('kind', 'sick', 'words'),
    [
        ('flattening', {'entropy': 1.4, 'confidence': 0.6}, 'model.dropout_rate'),
        ('collapse', {'classes': 1.4, 'entropy': 0.1, 'confidence': 0.97}, '1.4 of 10'),
        ('collapse', {'classes': 4.7}, '4.7 of 10 classes share them, at most 9.8 before'),
        (
            'rising_labeled_loss',
            {'labeled_loss': 0.9, 'batch_statistics_loss': 0.9, 'train_loss': 0.1},
            '0.90',
        ),
        ('unfit_statistics', {'labeled_loss': 1.5, 'train_loss': 3.0}, 'running statistics do not fit'),
    ],
)
def test_a_sick_run_is_told_once_with_what_to_change(kind, sick, words):
    looks = [healthy(step, **(sick if step > 700 else {})) for step in STEPS]
    warned = told(looks)
    assert [one.kind for one in warned] == [kind]
    # Two of three evaluations make the median.
    assert warned[0].step == 800
    assert words in warned[0].message
    assert '\n' not in warned[0].message


def test_the_flattening_of_a_mnist_run_is_seen():
    """Dropout 0.5: when the rate fell, entropy rose from 1.23 to 1.46, the error from 12% to 46%."""
    before = {'entropy': 1.23, 'confidence': 0.57}
    looks = [
        healthy(step, **(before if step <= 700 else {'entropy': 1.46, 'confidence': 0.5})) for step in STEPS
    ]
    assert [one.kind for one in told(looks)] == ['flattening']
    assert 'rose from 1.23 to 1.46 nats' in told(looks)[0].message


def test_what_is_known_is_not_told_again():
    looks = [healthy(step, classes=1.0) for step in STEPS]
    known = [Warned('collapse', 300, '...')]
    assert new_warnings(looks, known=known, total_steps=TOTAL, num_classes=10) == []
    assert set(CHECKS) >= {'flattening', 'collapse', 'rising_labeled_loss', 'unfit_statistics'}


def test_two_and_many_classes():
    for num_classes, classes in ((2, 1.9), (2, 1.3), (100, 70.0), (1000, 150.0)):
        assert told([healthy(s, classes=classes) for s in STEPS], num_classes=num_classes) == []
    assert [one.kind for one in told([healthy(s, classes=1.1) for s in STEPS], num_classes=2)] == ['collapse']


def test_the_probe_by_hand():
    """Two classes; running statistics say (1, 0) for all, batch statistics the pixel's own class."""

    def train_logits(variables, images, key):
        assert key is None
        return jnp.log(jnp.asarray([[0.25, 0.75]])).repeat(len(images), 0), {}

    def logits(variables, images):
        sure = images.reshape(len(images), -1)[:, :1] > 0.5
        return jnp.log(jnp.where(sure, jnp.asarray([[1 - 1e-7, 1e-7]]), jnp.asarray([[0.5, 0.5]])))

    mesh = make_mesh(jax.devices()[:1])
    images = np.array([0, 0, 255, 0], np.uint8).reshape(4, 1, 1, 1)
    dataset = Dataset(images, np.array([0, 1, -1, -1], np.int32), None, None, None, ())
    scaled = (np.zeros(1, np.float32), np.ones(1, np.float32))
    data = place_probe_data(dataset, (np.array([0, 1]), np.array([2, 3])), scaled, mesh)
    probe = make_probe(Network(logits, train_logits), mesh)
    figures = probe({}, data)
    expected = {
        'labeled_loss': math.log(2),
        'batch_statistics_loss': (math.log(4) + math.log(4 / 3)) / 2,
        'entropy': math.log(2) / 2,
        'confidence': 0.75,
        'classes': math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
    }
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-4), name
    nothing = place_probe_data(dataset, (np.array([0, 1]), np.array([], int)), scaled, mesh)
    assert probe({}, nothing).keys() == {'labeled_loss', 'batch_statistics_loss'}


def test_the_probe_draws_the_same_few_images_each_time():
    mesh = make_mesh(jax.devices()[:1])
    images = np.arange(2000, dtype=np.uint32).view(np.uint8).reshape(2000, 2, 2, 1)
    dataset = Dataset(images, np.arange(2000, dtype=np.int32), None, None, None, ())
    parts = (np.arange(300), np.arange(300, 2000))
    one, two = (place_probe_data(dataset, parts, (), mesh) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert len(set(one.labels.tolist())) == len(one.unlabeled_images) == PROBED_IMAGES
    np.testing.assert_array_equal(one.labeled_images, images[np.asarray(one.labels)])
