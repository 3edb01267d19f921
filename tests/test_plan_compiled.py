"""`plan` with the compiler for TPUs, which `make test-plan` installs."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import jax
import pytest

from metasemi_jax.models import create_model, variable_shapes
from small_runs import ROOT

pytestmark = pytest.mark.skipif(find_spec('libtpu') is None, reason='needs libtpu: make test-plan')
# Narrow, on 8×8 images: seconds of compiling.
SMALL = ('--config=digits', '--config.model.width=16', '--config.batch_size=256')
TOPOLOGIES = {4: 'v5e:2x2', 256: 'v5e:16x16'}


def plan(*flags):
    command = [sys.executable, '-m', 'metasemi_jax.plan', *flags]
    # The other tests compile in a hurry; here the program is the user's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('JAX_', 'XLA_'))}
    environment['PYTHONPATH'] = f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope='module', params=TOPOLOGIES)
def chips(request):
    return request.param


@pytest.fixture(scope='module')
def found(chips):
    """What `plan --json` says of the small config, as a user types it."""
    process = plan(*SMALL, f'--topology={TOPOLOGIES[chips]}', '--json')
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_small_step_fits_and_its_cost_is_that_of_its_passes(found, chips):
    assert found['compiled_not_run']
    assert found['fits']
    assert found['num_devices'] == chips
    assert found['config']['dtype'] == 'bfloat16'
    assert (found['batch_size_per_device'], found['steps_per_call']) == (256 // chips, 100)
    # The state and the momentum, in float32, lie on every chip; the images do too.
    assert found['memory']['state'] >= 8 * found['config']['num_params']
    assert found['memory']['data'] >= 1297 * 8 * 8
    assert 0 < sum(found['memory'].values()) == found['memory_wanted'] < found['memory_available'] / 10
    step = found['step']
    assert step['flops_by'] == 'compiler'
    assert step['least_s'] == max(step['compute_s'], step['memory_s'], step['network_s'])
    assert found['run_s'][0] == pytest.approx(2000 * step['least_s'])


@pytest.fixture(scope='module')
def shapes():
    """Of the parameters of the small config."""
    model = create_model('conv_small', 10, width=16)
    return [leaf.shape for leaf in jax.tree.leaves(variable_shapes(model, (8, 8, 1))['params'])]


def test_only_sums_of_gradients_and_statistics_are_sent_and_no_image(found, shapes):
    """Every array that is sent has the shape of a parameter, perhaps turned, or is one number."""
    assert {entry['operation'] for entry in found['sent']} == {'all-reduce'}
    known = {tuple(sorted(shape)) for shape in shapes} | {(), (1,)}
    assert {tuple(sorted(entry['shape'])) for entry in found['sent']} <= known


def test_kernels_are_summed_in_bfloat16_and_all_else_in_float32(found, shapes):
    """docs/scaling.md says so: the labeled gradient, and the gradients of the two training passes."""
    kernels = {shape: 3 * shapes.count(shape) for shape in shapes if len(shape) == 4}
    sent = {dtype: Counter() for dtype in ('bfloat16', 'float32')}
    for entry in found['sent']:
        sent[entry['dtype']][tuple(entry['shape'])] += entry['count']
    assert sent['bfloat16'] == kernels
    assert all(len(shape) <= 2 for shape in sent['float32'])
    assert (64, 10) in sent['float32']


def test_rand_augment_reads_little_and_a_joint_pass_sends_no_image():
    """As gathers, RandAugment's look-ups make the compiler count 35 GB a step; as products 0.8 GB."""
    network = ('--config=cifar10', '--config.model.name=conv_small', '--config.model.width=8')
    method = ('--config.method.name=fixmatch', '--config.data.strong=google', '--config.batch_size=16')
    process = plan(*network, *method, '--topology=v6e:2x2', '--json')
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found['step']['bytes'] < found['step']['bytes_of_compiler'] < 2e9
    assert {entry['operation'] for entry in found['sent']} == {'all-reduce'}


def test_a_size_that_the_compiler_refuses_ends_in_one_line():
    process = plan('--topology=v5e:3x3')
    assert process.returncode == 1
    assert process.stdout == ''
    assert process.stderr.startswith('error: --topology=v5e:3x3: the compiler refuses it (')
    assert process.stderr.count('\n') == 1
