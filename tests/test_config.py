import json

import ml_collections
import numpy as np
import pytest

from configs import default, digits
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.fields import FIELDS
from metasemi_jax.config.form import differing_fields, flatten
from metasemi_jax.errors import UserError


def changed(**fields):
    config = digits.get_config()
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


def test_flatten_by_hand():
    config = ml_collections.ConfigDict({'a': 1, 'b': {'c': (1, 2), 'd': {'e': None}}, 'f': 'x'})
    flat = {'a': 1, 'b.c': [1, 2], 'b.d.e': None, 'f': 'x'}
    assert flatten(config) == flat
    assert flatten({'a': 1, 'b': {'c': [1, 2], 'd': {'e': None}}, 'f': 'x'}) == flat


def test_a_config_read_back_does_not_differ():
    config = digits.get_config()
    read_back = json.loads(json.dumps(config.to_dict()))
    assert flatten(config) == flatten(read_back)
    assert differing_fields(read_back, config) == []


def test_differing_fields_are_named_with_both_values():
    old = digits.get_config().to_dict()
    del old['method']['meta']  # as in an older version: the method's own, which it is here too
    old['gone'] = 3
    old['optimizer']['milestones'] = (3, 4)
    new = changed(seed=4, optimizer__milestones=(1, 2))
    assert differing_fields(old, new) == [
        'gone: 3 there, absent here',
        'optimizer.milestones: [3, 4] there, [1, 2] here',
        'seed: 0 there, 4 here',
    ]


def test_every_experiment_passes():
    from configs import cifar10, cifar100, folder, imagenet, svhn

    for experiment in (digits, svhn, cifar10, cifar100, folder, imagenet):
        check_config(experiment.get_config())


POSITIVE = [
    'total_steps',
    'batch_size',
    'log_every',
    'eval_every',
    'eval_batch_size',
    'checkpoint_every',
    'model.depth',
    'method.mixup_gamma',
    'method.epsilon',
]
NOT_NEGATIVE = [
    'seed',
    'steps_per_call',
    'data.num_labels',
    'data.num_validation',
    'data.pad',
    'method.rampup_steps',
    'method.meta_lr',
    'method.consistency_weight',
    'optimizer.lr',
    'optimizer.warmup_steps',
    'optimizer.weight_decay',
]
SHARES = ['ema_decay', 'optimizer.momentum', 'model.dropout_rate']


def with_value(name, value):
    kind = type(flatten(digits.get_config())[name])
    return changed(**{name: value if kind is type(None) else kind(value)})


def refused(config, message):
    with pytest.raises(UserError, match=message) as caught:
        check_config(config)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', POSITIVE)
def test_more_than_zero(name):
    for value in (0, -1):
        refused(with_value(name, value), f'^{name}={value}.* must be more than 0$')
    check_config(with_value(name, 1))


@pytest.mark.parametrize('name', NOT_NEGATIVE)
def test_not_negative(name):
    refused(
        with_value(name, -1), f'^{name}=-1.* must (not be negative|be at least 0 and less than 2\\*\\*32)$'
    )
    check_config(with_value(name, 0))


@pytest.mark.parametrize('name', SHARES)
def test_shares(name):
    for value in (-0.1, 1.0, 2.0):
        refused(with_value(name, value), f'^{name}={value} must be at least 0 and less than 1$')
    check_config(with_value(name, 0.0))
    check_config(with_value(name, 0.99))


@pytest.mark.parametrize('name', ['method.mixup_gamma', 'method.epsilon', 'optimizer.lr', *SHARES])
def test_not_a_number(name):
    refused(with_value(name, float('nan')), f'^{name}=nan must')


def test_choices():
    refused(changed(dtype='float16'), r'^dtype=float16 must be one of auto, bfloat16, float32$')
    refused(
        changed(method__estimator='jpv'),
        r'^method.estimator=jpv must be one of exact, finite_difference, jvp$',
    )


def test_crops_and_schedules():
    refused(changed(data__crop='centre'), r'^data.crop=centre must be one of pad, resized$')
    refused(changed(data__crop_area=(0.5,)), r'^data.crop_area=\[0.5\] must be two numbers')
    refused(changed(data__crop_aspect=(1.2, 0.8)), r'the smaller one first$')
    refused(changed(data__crop_area=(0.1, 1.5)), r'^data.crop_area=.* must be more than 0 and at most 1$')
    refused(changed(data__num_workers=-1), r'^data.num_workers=-1 must not be negative$')
    check_config(changed(data__num_workers=0, data__name='own_images'))
    refused(changed(optimizer__schedule='step'), r'must be one of cosine, cosine_7_16, milestones$')
    for schedule in ('cosine', 'cosine_7_16'):
        config = changed(optimizer__schedule=schedule, optimizer__warmup_steps=2000)
        message = r'^optimizer.warmup_steps=2000 must be less than total_steps=2000 with optimizer.schedule='
        refused(config, f'{message}{schedule};')


def test_optimizers():
    refused(changed(optimizer__name='lamb'), r'^optimizer.name=lamb must be one of adam, adamw, sgd$')
    refused(changed(optimizer__weight_decay_on='some'), r'must be one of all, kernels$')
    refused(changed(ema_convention='plain'), r'^ema_convention=plain must be one of constant, mean_teacher$')
    refused(
        changed(optimizer__name='adam', optimizer__nesterov=True),
        r'^optimizer.name=adam has no Nesterov momentum; add optimizer.nesterov=False, or use sgd$',
    )
    check_config(changed(optimizer__nesterov=True, optimizer__weight_decay_on='kernels'))
    check_config(changed(optimizer__name='adamw', ema_convention='constant'))


def test_channels():
    refused(changed(data__mean=(0.5,)), 'data.mean and data.std')
    refused(changed(data__std=(0.5,)), 'data.mean and data.std')
    refused(
        changed(data__mean=(0.5, 0.5), data__std=(0.5, 0.0)), r'data.std=\[0.5, 0.0\] must be more than 0'
    )
    check_config(changed(data__mean=(0.5,), data__std=(0.5,)))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('total_steps', None, 'total_steps=None must be of the type int'),
        ('total_steps', 2.5, 'total_steps=2.5 must be of the type int'),
        ('total_steps', True, 'total_steps=True must be of the type int'),
        ('batch_size', '64', "batch_size='64' must be of the type int"),
        ('method.meta', 1, 'method.meta=1 must be of the type bool'),
        ('optimizer.lr', '0.1', "optimizer.lr='0.1' must be of the type float"),
        ('optimizer.milestones', ('a', 'b'), r"optimizer.milestones=\['a', 'b'\] must be a list of ints"),
        ('optimizer.milestones', 5, 'optimizer.milestones=5 must be a list of ints'),
        ('data.std', ('b',), r"data.std=\['b'\] must be a list of floats"),
        ('model.width', 'wide', "model.width='wide' must be of the type int"),
        ('seed', 2**32, 'seed=4294967296 must be at least 0 and less than'),
    ],
)
def test_types(name, value, message):
    # As a config file may set it: a ConfigDict made anew takes any type.
    nested = digits.get_config().to_dict()
    *parents, last = name.split('.')
    group = nested[parents[0]] if parents else nested
    group[last] = value
    refused(ml_collections.ConfigDict(nested), message)


def test_names():
    nested = digits.get_config().to_dict()
    del nested['batch_size']
    refused(ml_collections.ConfigDict(nested), "^the config lacks 'batch_size'; configs/default.py lists")
    nested = digits.get_config().to_dict()
    nested['method']['gamma'] = 1.0
    refused(ml_collections.ConfigDict(nested), "^the config has an unknown field 'method.gamma'; configs")


def test_an_int_serves_as_a_float():
    check_config(ml_collections.ConfigDict(changed().to_dict() | {'ema_decay': 0}))


def test_every_field_is_checked():
    assert FIELDS.keys() == flatten(default.get_config()).keys()


def test_what_int32_and_float32_cannot_hold():
    for name, field in FIELDS.items():
        if field.kind is int and not field.wide:
            value = (2**31,) if field.many else 2**31
            refused(with_any(name, value), rf'^{name}=.*2147483648\]? must be less than 2\*\*31$')
    for name, value in {'optimizer.lr': 1e39, 'method.mixup_gamma': 1e-39, 'method.meta_lr': 1e300}.items():
        refused(
            with_any(name, value), rf'^{name}=.* must be a number that float32 holds, from 1.2e-38 to 3.4'
        )
    check_config(changed(data__name='own_images', data__memory_budget=10**12, seed=2**32 - 1))


def with_any(name, value):
    nested = digits.get_config().to_dict()
    *parents, last = name.split('.')
    (nested[parents[0]] if parents else nested)[last] = value
    return ml_collections.ConfigDict(nested)


def test_batches_that_no_machine_holds():
    refused(changed(batch_size=10**9), r'^batch_size=1000000000 and unlabeled_ratio=1 are 1,000,000,000 unla')
    refused(changed(unlabeled_ratio=2**20), r'are 67,108,864 unlabeled images a step; at most 1,048,576 are')
    check_config(changed(batch_size=2**20))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('optimizer.lr', np.float32(0.1), r'^optimizer.lr=.*0\.1.* is of the type float32; a config holds'),
        ('seed', np.int64(3), 'is of the type int64'),
        ('data.mean', (np.float32(1),), 'is of the type float32'),
        ('data.std', np.ones(3), 'is of the type ndarray'),
        ('model.width', len, r'^model.width=<built-in function len> is of the type builtin_function'),
        ('data.name', b'digits', 'is of the type bytes'),
        ('data.crop_area', {1, 2}, 'is of the type set'),
        ('optimizer.milestones', ((1, 2), (3,)), 'is of the type tuple'),
    ],
)
def test_what_a_config_file_cannot_hold(name, value, message):
    refused(with_any(name, value), message)


def test_a_numpy_float_that_is_one():
    check_config(with_any('optimizer.lr', np.float64(0.1)))


def test_settings_of_other_data_are_refused():
    message = r'^data.path=mine is not used with data.name=digits; add config=configs/folder.py$'
    refused(changed(data__path='mine'), message)
    refused(
        changed(data__image_size=32), r'^data.image_size=32 is not used with data.name=digits; leave it out$'
    )
    for name, value in {
        'data__data_dir': 'x',
        'data__manual_dir': 'x',
        'data__num_workers': 2,
        'data__memory_budget': 1,
    }.items():
        refused(changed(**{name: value}), 'is not used with data.name=digits; leave it out$')
    refused(changed(data__name='cifar10', data__path='x'), 'is not used with data.name=cifar10')
    refused(changed(data__name='cifar10', data__image_size=8), 'is not used with data.name=cifar10')
    check_config(changed(data__name='cifar10', data__data_dir='x', data__manual_dir='y'))
    check_config(changed(data__name='own_images', data__path='x', data__image_size=8))
    check_config(changed(data__name='imagenet2012', data__manual_dir='x', data__image_size=8))
