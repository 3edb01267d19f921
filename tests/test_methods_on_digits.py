"""Every method on real digits: the losses that it had when its numbers were recorded, and that it learns."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_runs import GOLDEN, GOLDEN_STEPS, NUM_CLASSES, VARIANTS, held_out_loss, train
from metasemi_jax.methods import METHODS, semi_supervised
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.targets import confident, predictions

# Why a method does not end below the labels alone.
NOT_BELOW = {
    'supervised': 'it is the labels alone',
    'pseudo_label': 'it learns what it is sure of already, on the same view; see the test below',
}


@functools.cache
def run(variant):
    """The losses of the first steps, and the loss on held-out images after the last one."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        steps = list(train(variant))
        return [float(loss) for loss, _ in steps[:GOLDEN_STEPS]], float(held_out_loss(steps[-1][1]))


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_first_losses_are_those_on_record(variant):
    """`PYTHONPATH=. python tests/helpers/digits_runs.py` records them anew."""
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == {*VARIANTS}
    np.testing.assert_allclose(run(variant)[0], golden[variant], rtol=1e-8)


@pytest.mark.parametrize('variant', VARIANTS)
def test_it_ends_below_the_labels_alone(variant):
    own, labels_alone = run(variant)[1], run('supervised')[1]
    if variant in NOT_BELOW:
        assert own < 1.1 * labels_alone
    else:
        assert own < 0.95 * labels_alone


def told(change):
    """Pseudo-Label whose targets somebody `change`s who knows the labels."""

    def method(network, *, total_steps=0):
        def select(targets, inputs):
            targets = confident(0.95, strictly=True)(targets, inputs)
            truth = jax.nn.one_hot(inputs.batch.unlabeled_labels, NUM_CLASSES, dtype=targets.labels.dtype)
            return change(targets, truth)

        weight = linear_ramp(1.0, 0.4 * total_steps)
        return semi_supervised(
            network, targets=predictions, select=select, predict='same_pass', weight=weight
        )

    return method


def test_pseudo_label_learns_nothing_from_what_it_is_sure_of(monkeypatch):
    """Its mistakes left out it ends the same; only corrected they teach what it did not know."""

    def without_mistakes(targets, truth):
        return targets._replace(weights=targets.weights * jnp.sum(targets.labels * truth, axis=-1))

    def corrected(targets, truth):
        return targets._replace(labels=truth)

    monkeypatch.setitem(METHODS, 'without_mistakes', told(without_mistakes))
    monkeypatch.setitem(METHODS, 'corrected', told(corrected))
    own, labels_alone = run('pseudo_label')[1], run('supervised')[1]
    np.testing.assert_allclose(run('without_mistakes')[1], own, rtol=0.02)
    assert run('corrected')[1] < 0.8 * labels_alone
