"""Which unlabeled images a threshold keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.methods.flexmatch import class_thresholds
from metasemi_jax.methods.method import Targets
from metasemi_jax.methods.targets import confident


@pytest.mark.parametrize(('strictly', 'kept'), [(False, [1, 0]), (True, [0, 0])])
def test_a_probability_of_the_threshold_itself(strictly, kept):
    found = confident(0.75, strictly=strictly)(Targets(jnp.array([[0.25, 0.75], [0.7, 0.3]])), None)
    assert found.weights.tolist() == kept
    assert found.labels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ('last_class', 'expected'),
    [
        # Four, two and no images of the classes: a = 1, 1/2, 0.
        ([0, 0, 0, 0, 1, 1, -1, -1], [0.9, 0.9 * 0.5 / 1.5, 0]),
        # The undecided are the most: a = 1/4, 1/2, 0.
        ([0, 1, 1, -1, -1, -1, -1], [0.9 * 0.25 / 1.75, 0.9 * 0.5 / 1.5, 0]),
        ([-1, -1], [0, 0, 0]),
    ],
)
def test_flexmatch_thresholds_by_hand(last_class, expected):
    found = class_thresholds(jnp.array(last_class, jnp.int32), 3, 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
