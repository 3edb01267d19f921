"""What a step of a method costs, in forward passes of the labeled batch."""

import functools

import pytest

from benchmarks.forward_passes import forward_passes
from metasemi_jax.models import create_model

cost = functools.partial(forward_passes, shape=(16, 16, 3), num_classes=4)


@pytest.fixture(scope='module')
def model():
    return create_model('conv_small', 4, width=8)


def test_one_joint_pass_costs_a_third_more_than_fixmatch_needs(model):
    joint, separate = (
        cost('fixmatch', model, unlabeled_ratio=7, batch_norm=convention)
        for convention in ('joint', 'labeled')
    )
    # 1 + 7 + 7 batches forward and back are 45 passes; without a gradient of the weak view 31.
    assert 42 < joint < 46
    assert 29 < separate < 32
    assert separate < 0.75 * joint


def test_a_target_from_the_students_own_pass_costs_nothing(model):
    """Labeled and unlabeled images forward and back, whether dropout is drawn or not: 6 passes."""
    assert cost('pseudo_label', model) < 6.3
