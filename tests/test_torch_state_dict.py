import collections

import jax
import numpy as np
import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.torch_import import convert_state_dict, to_state_dict
from metasemi_jax.torch_import.state_dict import infer_sizes, parameter_keys
from reference_runs import NETS, load
from state_dicts import WIDTHS, random_state_dict


@pytest.fixture(scope='module')
def small():
    return random_state_dict('conv_large')


@pytest.mark.parametrize('net', WIDTHS)
@pytest.mark.parametrize('dtype', [np.float64, np.float32])
def test_there_and_back_again(net, dtype):
    state_dict = random_state_dict(net, dtype=dtype)
    back = to_state_dict(net, convert_state_dict(net, state_dict))
    assert list(back) == list(state_dict)
    for key, array in state_dict.items():
        assert back[key].dtype == dtype
        np.testing.assert_array_equal(back[key], array)


def test_layouts(small):
    variables = convert_state_dict('conv_large', small)
    kernel = variables['params']['block4']['conv']['kernel']
    assert kernel.shape == (3, 3, 4, 8)
    assert kernel[0, 1, 2, 5] == small['block4.0.weight'][5, 2, 0, 1]
    dense = variables['params']['classifier']['kernel']
    assert dense[1, 2] == small['classifier.0.weight'][2, 1]
    statistics = variables['batch_stats']['block9']['bn']
    np.testing.assert_array_equal(statistics['var'], small['block9.1.running_var'])
    np.testing.assert_array_equal(statistics['mean'], small['block9.1.running_mean'])


def test_sizes_are_read_from_the_shapes():
    state_dict = random_state_dict('conv_large', num_classes=7, width=6, channels=1)
    assert infer_sizes('conv_large', state_dict)[:3] == (7, 6, 1)


@pytest.mark.parametrize(('name', 'net'), NETS.items())
def test_names_and_their_order_are_pytorchs(name, net):
    run = load(name)
    shuffled = dict.fromkeys(sorted(run['state_names']))
    assert parameter_keys(shuffled) == list(run['param_names'])
    state_dict = random_state_dict(net)
    assert list(state_dict) == list(run['state_names'])


def test_data_parallel_and_batch_counters(small):
    wrapped = {f'module.{key}': value for key, value in small.items()}
    wrapped['module.block1.1.num_batches_tracked'] = np.array(7)
    jax.tree.map(
        np.testing.assert_array_equal,
        convert_state_dict('conv_large', wrapped),
        convert_state_dict('conv_large', small),
    )


class Tensor:
    """What is used of a PyTorch tensor: on a device, with a gradient."""

    def __init__(self, array, stage='attached'):
        self.array, self.stage, self.dtype = array, stage, f'torch.{array.dtype}'

    def detach(self):
        return Tensor(self.array, 'detached')

    def cpu(self):
        assert self.stage == 'detached'
        return Tensor(self.array, 'on the host')

    def numpy(self):
        assert self.stage == 'on the host'
        return self.array


def test_tensors_are_brought_to_the_host_and_copied(small):
    tensors = {key: Tensor(value) for key, value in small.items()}
    converted = convert_state_dict('conv_large', tensors)
    bias = converted['params']['classifier']['bias']
    np.testing.assert_array_equal(bias, small['classifier.0.bias'])
    assert not np.shares_memory(bias, small['classifier.0.bias'])


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


def with_value(key, value):
    return lambda state: {**state, key: value}


ZEROS = np.zeros
FAULTS = {
    'missing': (without('block5.1.running_var'), r"lacks 'block5.1.running_var'$"),
    'missing first': (without('block1.0.weight'), r"lacks 'block1.0.weight'$"),
    'missing classifier': (without('classifier.0.weight'), r"lacks 'classifier.0.weight'$"),
    'unexpected': (with_value('block10.0.weight', ZEROS(3)), r"has the unexpected 'block10.0.weight'$"),
    'transposed': (with_value('block2.0.weight', ZEROS((3, 3, 4, 4))), r"'block2.0.weight' has shape \(3, 3"),
    'other width': (with_value('block1.0.weight', ZEROS((9, 3, 3, 3))), r"'block1.0.weight' has shape \(9"),
    'vector': (
        with_value('block1.1.weight', ZEROS((4, 1))),
        r"'block1.1.weight' has shape \(4, 1\), not .*4,",
    ),
    'bias': (with_value('classifier.0.bias', ZEROS(4)), r"'classifier.0.bias' has shape \(4,\).* 3 classes"),
    'classifier': (
        with_value('classifier.0.weight', ZEROS((3, 5))),
        r"'classifier.0.weight' has shape \(3, 5",
    ),
    'integers': (with_value('block1.1.bias', ZEROS(4, int)), r"'block1.1.bias' is no floating-point array"),
    'text': (with_value('block1.1.bias', 'weights'), r"'block1.1.bias' is no floating-point array"),
    'empty': (lambda state: {}, 'no mapping from names to arrays'),
    'a list': (lambda state: [1], 'no mapping from names to arrays'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_what_does_not_fit_is_named_in_one_line(small, fault):
    damage, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as error:
        convert_state_dict('conv_large', damage(collections.OrderedDict(small)))
    assert '\n' not in str(error.value)


def test_an_unknown_network_is_refused(small):
    with pytest.raises(UserError, match=r"'conv_small'; choose one of conv_large, .*, resnet18"):
        convert_state_dict('conv_small', small)
