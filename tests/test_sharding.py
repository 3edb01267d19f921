import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from metasemi_jax.distributed.sharding import check_batch_size, process_rows
from metasemi_jax.errors import UserError
from metasemi_jax.models import create_model, init_variables
from sharding_worker import FLOAT32_BATCH

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ('batch_size', 'devices', 'nearest'), [(100, 8, '96 or 104'), (3, 8, '8'), (129, 2, '128 or 130')]
)
def test_a_batch_that_the_devices_cannot_share(batch_size, devices, nearest):
    with pytest.raises(UserError, match=f'batch_size={batch_size} .* {devices} devices; use {nearest}$'):
        check_batch_size(batch_size, devices)


@pytest.mark.parametrize(('batch_size', 'devices'), [(128, 8), (8, 8), (7, 1)])
def test_a_batch_that_they_can(batch_size, devices):
    check_batch_size(batch_size, devices)


def test_processes_share_the_rows():
    rows = np.arange(12)
    assert [rows[process_rows(12, i, 3)].tolist() for i in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What `sharding_worker.py` computed: some steps on 1, 2 and 8 devices."""
    out = tmp_path_factory.mktemp('sharding') / 'out.npz'
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    command = [sys.executable, ROOT / 'tests' / 'helpers' / 'sharding_worker.py', out]
    subprocess.run(command, check=True, env=environment, timeout=500)
    return dict(np.load(out))


@pytest.mark.parametrize(('dtype', 'few', 'tolerance'), [('float64', 1, 1e-9), ('float32', 2, 1e-4)])
def test_the_number_of_devices_does_not_change_the_weights(found, dtype, few, tolerance):
    """Relative to the largest entry of each array: what is 0 but for rounding has no relative error."""
    prefix = f'{dtype}/{few}/weights'
    names = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
    assert len(names) > {'float64': 15, 'float32': 40}[dtype]
    for name in names:
        expected = found[prefix + name]
        assert expected.dtype == dtype
        error = np.abs(found[f'{dtype}/8/weights{name}'] - expected).max()
        assert error <= tolerance * np.abs(expected).max(), (name, error)


@pytest.mark.parametrize(
    ('method', 'own'),
    [('flexmatch', 'last_class'), ('mean_teacher', "['ema']['params']"), ('fixmatch', 'params')],
)
def test_nor_those_of_other_methods(found, method, own):
    """A method with a state, one with a teacher, and MetaSemi's meta-gradient over FixMatch."""
    alone = {
        name.removeprefix(f'{method}/1/'): v for name, v in found.items() if name.startswith(f'{method}/1/')
    }
    assert any(own in name for name in alone)
    for name, expected in alone.items():
        error = np.abs(found[f'{method}/8/{name}'] - expected).max()
        assert error <= 1e-9 * np.abs(expected).max(), (name, error)
    if method == 'flexmatch':
        last_class = alone["weights['method']['last_class']"].tolist()
        # The state says something: images of several classes, and some that it was not sure of yet.
        assert -1 in last_class
        assert len({*last_class}) > 3


@pytest.mark.parametrize('method', ['flexmatch', 'mean_teacher', 'fixmatch'])
def test_nor_do_they_send_images(found, method):
    """The joint pass takes each device's own images; FlexMatch gathers the class and the id of each image."""
    operations, shapes = (found[f'sent by {method}/8/{name}'].tolist() for name in ('operations', 'shapes'))
    assert {*operations} == {'all-reduce'} | ({'all-gather'} if method == 'flexmatch' else set())
    summed = {shape for op, shape in zip(operations, shapes, strict=True) if op == 'all-reduce'}
    assert summed == {'()', '(4,)', '(4, 4)', '(4, 768)'}  # numbers, and the layers of `mlp`
    gathered = [shape for op, shape in zip(operations, shapes, strict=True) if op == 'all-gather']
    assert {*gathered} <= {'(16,)', '(16, 1)'}  # of 16 unlabeled images


def test_only_gradients_and_statistics_are_sent(found):
    """A batch on two devices or on eight: what each sends depends neither on it nor on their number."""
    sent = {n: sorted(found[f'float32/{n}/shapes']) for n in (2, 8)}
    assert sent[2] == sent[8]
    for n in sent:
        assert set(found[f'float32/{n}/operations']) == {'all-reduce'}
    # Of every array that is summed the shape is that of a parameter or a statistic, or it is one number: a
    # loss, a metric, or whether every device has its random numbers.
    model = create_model('conv_large', 4, width=4)
    params = init_variables(model, jax.random.key(0), (16, 16, 3))['params']
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert set(sent[8]) <= {*map(str, shapes), '()'}
    assert not {FLOAT32_BATCH, FLOAT32_BATCH // 2} & {n for shape in shapes for n in shape}
    kernels = [str(shape) for shape in shapes if len(shape) == 4]
    # The labeled gradient, and the gradients of the two training passes.
    for kernel in set(kernels):
        assert sent[8].count(kernel) == 3 * kernels.count(kernel)
