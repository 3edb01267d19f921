"""What MetaSemi has beyond the paper, on a linear classifier, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.batch import Batch
from metasemi_jax.methods import Inputs, Keys, Network, create_method

CLASSES, LR = 3, 0.1
rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=(4, CLASSES))
LABELED, WEAK, STRONG = rng.normal(size=(3, 5, 2, 2, 1))  # five images of four pixels each
LABELS = np.array([0, 1, 2, 0, 1])

pytestmark = pytest.mark.usefixtures('x64')


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def flat(images):
    return images.reshape(len(images), -1)


def run(**options):
    """The outcome's scalars and arrays of one loss of MetaSemi without mix-up."""

    def logits(variables, images):
        return images.reshape(len(images), -1) @ variables['params']

    network = Network(logits, lambda variables, images, key: (logits(variables, images), {}))
    method = create_method('metasemi', network, mixup=False, rampup_steps=0, **options)
    params = jnp.asarray(WEIGHTS)
    batch = Batch(
        labeled_images=jnp.asarray(LABELED),
        labels=jnp.asarray(LABELS),
        unlabeled_images=jnp.asarray(WEAK),
        unlabeled_labels=jnp.asarray(LABELS),
        strong_images=jnp.asarray(STRONG),
        unlabeled_ids=None,
    )
    inputs = Inputs(params, {}, {}, {}, jnp.zeros((), jnp.int32), batch, jnp.asarray(LR))
    _, outcome = method.loss(params, inputs, Keys(jax.random.key(0), None))
    return outcome.aux


def expected(images, *, temperature=1.0, lr=LR):
    """Pseudo-labels before and after 2·lr·J·g at `images`, and the consistency loss there."""
    before = softmax(flat(WEAK) @ WEIGHTS / temperature)
    labeled = softmax(flat(LABELED) @ WEIGHTS)
    gradient = flat(LABELED).T @ (labeled - np.eye(CLASSES)[LABELS]) / len(LABELS)
    probs, tangent = softmax(flat(images) @ WEIGHTS), flat(images) @ gradient
    moves = probs * (tangent - (probs * tangent).sum(axis=1, keepdims=True))
    after = np.maximum(before - 2 * lr * moves, 0)
    after /= after.sum(axis=1, keepdims=True)
    return before, after, np.square(probs - after).sum(axis=1).mean()


@pytest.mark.parametrize(
    ('options', 'images', 'by_hand'),
    [
        ({}, WEAK, {}),
        ({'second_view': 'strong'}, STRONG, {}),
        ({'second_view': 'strong', 'temperature': 0.5}, STRONG, {'temperature': 0.5}),
        ({'inner_lr': 0.7}, WEAK, {'lr': 0.7}),
        ({'inner_lr': 0.0}, WEAK, {'lr': 0.0}),
    ],
)
def test_by_hand(options, images, by_hand):
    aux = run(**options)
    before, after, loss = expected(images, **by_hand)
    np.testing.assert_allclose(aux['initial'], before, rtol=1e-12)
    np.testing.assert_allclose(aux['labels'], after, rtol=1e-12)
    np.testing.assert_allclose(aux['consistency_loss'], loss, rtol=1e-12, atol=1e-30)


def test_off_they_change_no_bit():
    aux, same = run(), run(second_view=None, temperature=1.0, inner_lr=LR)
    for name, value in aux.items():
        np.testing.assert_array_equal(value, same[name], err_msg=name)
