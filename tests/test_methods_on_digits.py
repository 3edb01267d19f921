"""Every method on real digits: the losses that it had when its numbers were recorded, and that it learns."""

import functools
import json

import jax
import numpy as np
import pytest

from digits_runs import GOLDEN, GOLDEN_STEPS, VARIANTS, held_out_loss, train

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Why a method does not end below the labels alone.
NOT_BELOW = {
    'supervised': 'it is the labels alone',
    'pseudo_label': 'it learns what it is already sure of, on the same view, its mistakes too',
}


@functools.cache
def run(variant):
    """The losses of the first steps, and the loss on held-out images after the last one."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        steps = list(train(variant))
        return [float(loss) for loss, _ in steps[:GOLDEN_STEPS]], float(held_out_loss(steps[-1][1]))


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_first_losses_are_those_on_record(variant):
    """`PYTHONPATH=. python tests/digits_runs.py` records them anew."""
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
