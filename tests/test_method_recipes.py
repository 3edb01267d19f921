"""Recipes by the method's name, and methods from a file of one's own."""

import re
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

import main
from configs import cifar10, cifar100, digits, folder, imagenet, svhn
from metasemi_jax.cli import config_first, parse_config_flags
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import flatten, settled
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.methods import METHODS, create_method, method_options
from metasemi_jax.methods.method import Method
from metasemi_jax.methods.titles import ABLATION, method_title
from metasemi_jax.sweep.__main__ import _recipe
from metasemi_jax.training.experiment import build_experiment, build_method
from metasemi_jax.training.recipe import Facts, choose
from method_steps import mlp
from small_runs import ROOT, TINY

DIGITS = ROOT / 'configs' / 'digits.py'


def config_of(*arguments):
    """The config of a command line, as `main.py` has it."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', None, '', flag_values=values)
    parse_config_flags(values, config_first(['main.py', *map(str, arguments)], DIGITS))
    return values['config'].value


@pytest.mark.parametrize('experiment', [svhn, cifar10, cifar100, digits, folder, imagenet])
@pytest.mark.parametrize('name', METHODS)
def test_every_recipe_makes_its_method(experiment, name):
    config = experiment.get_config(name)
    check_config(config)
    assert config.method.name == name
    if config.recipe == 'auto':
        config.update_from_flattened_dict(choose(Facts((28, 28, 1), 100, True, False), flatten(config)))
    assert isinstance(build_method(config, mlp()), Method)


def test_the_command_line_brings_the_recipe():
    config = config_of(f'--config={ROOT}/configs/svhn.py', '--config.method.name=fixmatch')
    assert (config.method.name, config.model.name, config.batch_size) == ('fixmatch', 'wide_resnet', 64)
    assert (config.unlabeled_ratio, config.total_steps, config.data.pad_mode) == (7, 2**20, 'reflect')
    assert (config.optimizer.lr, config.optimizer.nesterov) == (0.03, True)
    # In any order and form, what is given by hand comes last, and MetaSemi's recipe is the default.
    arguments = ('--config.optimizer.lr=0.5', '--config.method.name', 'mixmatch', '--config')
    config = config_of(*arguments, ROOT / 'configs' / 'cifar100.py')
    assert (config.method.name, config.optimizer.lr, config.optimizer.name) == ('mixmatch', 0.5, 'adamw')
    assert config.method.consistency_weight == 150
    assert config_of(f'--config={ROOT}/configs/svhn.py').model.name == 'conv_large'
    assert config_of('--config.method.name=mean_teacher').ema_decay == 0.999
    # As ml_collections has it, too.
    assert config_of(f'--config={ROOT}/configs/cifar10.py:vat').optimizer.lr == 2e-3


def test_published_settings():
    assert svhn.get_config('freematch').method.most == 0.95
    assert svhn.get_config('ict').method.mixup_gamma == 0.1
    assert [e.get_config('mixmatch').method.consistency_weight for e in (svhn, cifar100)] == [250, 150]
    assert cifar10.get_config('mixmatch').method.consistency_weight is None
    assert method_options('mixmatch')['consistency_weight'] == 75
    decays = [
        e.get_config(name).optimizer.weight_decay for e in (cifar10, cifar100) for name in ('mixmatch', 'uda')
    ]
    assert decays == [0.02, 5e-4, 0.04, 1e-3]
    # Google's program on CIFAR-100 has 8 times the channels, USB's twice.
    assert [cifar100.get_config(name).model.width for name in ('fixmatch', 'flexmatch')] == [8, None]
    for name in METHODS:
        adam = cifar10.get_config(name).optimizer.name == 'adamw'
        assert adam == (name in ('vat', 'ict', 'mixmatch'))


def test_a_config_file_without_methods_is_left_alone(tmp_path):
    own = tmp_path / 'own.py'
    own.write_text('from configs import digits\n\n\ndef get_config():\n    return digits.get_config("uda")\n')
    assert config_of(f'--config={own}').method.name == 'uda'
    assert config_of(f'--config={own}', '--config.method.name=fixmatch').method.name == 'fixmatch'


def test_a_sweep_over_methods_takes_each_recipe():
    argv = ['sweep', f'--config={ROOT}/configs/cifar10.py', '--grid=methods', '--config.seed=5']
    config = _recipe(argv, 'flexmatch')
    assert (config.method.name, config.unlabeled_ratio, config.data.strong) == ('flexmatch', 7, 'usb')
    assert config.seed == 5
    assert _recipe(argv, 'metasemi').model.name == 'conv_large'


def test_titles():
    titles = {name: method_title({'method.name': name}) for name in METHODS if name != 'metasemi'}
    assert len({*titles.values()}) == len(titles)
    # None goes by a name of MetaSemi's ablation.
    assert not {*titles.values()} & {*ABLATION.values()}
    fields = {'method.name': 'metasemi', 'method.meta': True, 'method.mixup': False}
    assert method_title(fields) == 'meta only'
    assert method_title({'method.name': 'fixmatch', 'method.meta': True}) == 'FixMatch + meta'
    assert method_title({'method.name': 'vat', 'method.entropy_weight': 0.06}) == 'VAT + EntMin'
    assert method_title({'method.name': '/a/b.py:mine'}) == 'mine'


def test_what_the_paper_has_not_is_off_in_its_recipes():
    for experiment in (svhn, cifar10, cifar100, imagenet, digits):
        fields = settled(flatten(experiment.get_config()))
        assert fields['method.second_view'] is fields['method.inner_lr'] is None
        assert (fields['method.temperature'], fields['undropped_statistics']) == (1, False)
        assert fields['data.strong'] == 'google'  # RandAugment, and no view at all of MetaSemi's
        assert build_method(experiment.get_config(), mlp()).second_view is None


def test_a_strong_view_of_small_images_is_not_blank():
    """RandAugment's square of 16 × 16 pixels covers all of an 8 × 8 image."""
    config = digits.get_config('fixmatch')
    config.update_from_flattened_dict({name: TINY[name] for name in ('batch_size', 'model.width')})
    assert build_experiment(config, make_mesh()).config.data.strong == 'affine'
    config.data.strong = 'google'
    with pytest.raises(UserError, match=r'16×16 pixels out, all of an image of 8×8; use data.strong=usb'):
        build_experiment(config, make_mesh())


@pytest.fixture
def example(tmp_path):
    """The file that docs/methods.md shows."""
    text = (ROOT / 'docs' / 'methods.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n# my_method\.py\n(.*?)```', text, re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    (tmp_path / 'my_method.py').write_text(code)
    return tmp_path / 'my_method.py'


def test_a_method_of_ones_own_as_a_user_runs_it(example, monkeypatch):
    monkeypatch.chdir(example.parent)
    monkeypatch.setattr(sys, 'argv', sys.argv)
    given = {name: value for name, value in TINY.items() if not name.startswith('method.')}
    given |= {'total_steps': 4, 'optimizer.milestones': '(2,)', 'log_every': 4}
    arguments = [f'--config.{name}={value}' for name, value in given.items()]
    arguments += [f'--config.method.name={example.name}:sharpened', '--config.method.threshold=0.2']
    main.main(['main.py', *arguments])
    # Its folder is named after the config file and the method.
    assert (example.parent / 'runs' / 'digits_sharpened' / 'results.json').exists()


def test_its_options_and_the_meta_gradient_over_it(example):
    name = f'{example}:sharpened'
    options = method_options(name)
    assert options['threshold'] == 0.8
    assert options['meta'] is False
    assert options['at_inner_step'] is False
    assert create_method(name, mlp(), meta=True).second_view == 'strong'
    config = digits.get_config(name)
    check_config(config)
    with config.unlocked():
        config.method.no_such = 3
    with pytest.raises(UserError, match=r"has no option 'no_such'; its options: .*threshold"):
        check_config(config)


@pytest.mark.parametrize(
    ('text', 'function', 'message'),
    [
        (None, 'f', 'there is no file'),
        ('x = 1\n', 'f', "has no function 'f'"),
        ('raise OSError("no")\n', 'f', 'fails'),
        ('def f(network, *, alpha):\n    return None\n', 'f', "give its option 'alpha' a default"),
        ('def f(network):\n    return 3\n', 'f', 'returned 3; it must return a Method'),
        ('def f(network):\n    return 1 / 0\n', 'f', 'fails'),
    ],
)
def test_files_that_hold_no_method(tmp_path, text, function, message):
    path = tmp_path / 'mine.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        create_method(f'{path}:{function}', mlp())
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_file_may_hold_dataclasses(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from __future__ import annotations\nimport dataclasses\nfrom metasemi_jax.methods.supervised import '
        'supervised\n\n@dataclasses.dataclass\nclass Options:\n    beta: float = 1.0\n\ndef f(network):\n'
        '    return supervised(network)\n'
    )
    assert isinstance(create_method(f'{path}:f', mlp()), Method)


def test_create_method_names_what_is_wrong():
    for name, options, message in (
        ('fixmtach', {}, "'fixmtach' is unknown; choose one of supervised"),
        ('fixmatch', {'mixup': True}, "has no option 'mixup'; its options: at_inner_step"),
        ('supervised', {'meta': True}, "method 'supervised' has no option 'meta'; its options: none"),
        ('uda', {'meta_moves': 'all'}, "meta_moves='all' must be one of labels, weights, both"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            create_method(name, mlp(), **options)


def test_a_method_without_targets_sees_no_unlabeled_image():
    assert not create_method('supervised', mlp()).unlabeled
    assert not create_method('metasemi', mlp(), meta=False, mixup=False).unlabeled
    assert create_method('metasemi', mlp(), meta=False).unlabeled


def test_a_relative_path_is_seen_from_here(example, monkeypatch):
    monkeypatch.chdir(example.parent)
    assert method_options(f'{Path(example).name}:sharpened')['temperature'] == 0.5
