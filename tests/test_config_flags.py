"""`--config` and `--config.FIELD`: files that fail, advice for what is mistyped, None, ~ and --help."""

import os
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import config_first, parse_config_flags, run_command
from metasemi_jax.command.advice import advice_on_argument, similar_fields
from metasemi_jax.command.help import config_help, field_comments
from metasemi_jax.config.fields import FIELDS
from metasemi_jax.errors import UserError
from small_runs import ROOT

DIGITS = ROOT / 'configs' / 'digits.py'


def parse(*argv, default=DIGITS):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', None, 'The experiment.', flag_values=values)
    flags.DEFINE_string('workdir', None, 'Folder.', flag_values=values)
    rest = parse_config_flags(values, config_first(['main.py', *argv], default))
    return values['config'].value, rest


@pytest.fixture(autouse=True)
def _argv(monkeypatch):
    monkeypatch.setattr('sys.argv', ['pytest'])


BAD_FILES = {
    'def get_config():\n    return 1 / 0\n': 'mine.py, line 2: ZeroDivisionError: division by zero',
    'import nowhere\n': "mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'",
    'def get_config(:\n': 'mine.py, line 1: invalid syntax',
    'x = 1\n': 'mine.py has no function get_config()',
    'def get_config():\n    pass\n': 'mine.py: get_config() returned a NoneType; let it return a ConfigDict',
    'def get_config():\n    return {}\n': 'mine.py: get_config() returned a dict',
    'import sys\n\nsys.exit(3)\n': 'mine.py, line 3 ends the program (sys.exit); return a config',
    'def get_config(a, b):\n    pass\n': 'TypeError: get_config() missing 2 required positional arguments',
    'def get_config():\n    raise KeyError("x")\n': 'mine.py, line 2: KeyError: x',
    'def get_config():\n    raise FileNotFoundError(2, "No such file", "y")\n': 'line 2: FileNotFound',
}


@pytest.mark.parametrize('text', BAD_FILES)
def test_a_file_that_fails_is_named_with_the_line(tmp_path, text):
    file = tmp_path / 'mine.py'
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        parse(f'--config={file}', '--config.seed=1')
    assert BAD_FILES[text] in str(caught.value)
    assert '\n' not in str(caught.value)


def test_optional_fields_take_none():
    config, _ = parse('--config.model.dropout_rate=None', '--config.method.estimator', 'None')
    assert config.model.dropout_rate is None
    assert config.method.estimator is None
    for name, field in FIELDS.items():
        if field.optional:
            config, _ = parse(f'--config.{name}=None')
            assert config.to_dict()[name.split('.')[0]][name.split('.')[1]] is None
    with pytest.raises(UserError, match=r'--config.seed=None: '):
        parse('--config.seed=None')


def test_values_in_a_word_of_their_own():
    config, rest = parse(
        '--config.seed', '3', '--config.data.flip', '--workdir', 'x', '--config', str(DIGITS)
    )
    assert (config.seed, config.data.flip, rest) == (3, True, [])


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    config, _ = parse('--config.data.path=~/photos', '--config.data.split_file=~/ids.txt')
    assert (config.data.path, config.data.split_file) == (f'{tmp_path}/photos', f'{tmp_path}/ids.txt')
    values = flags.FlagValues()
    flags.DEFINE_string('workdir', None, 'Folder.', flag_values=values)
    seen = []
    for folder in ('~/runs', '~', '~else/runs', 'a~/b'):
        run_command(lambda: seen.append(values['workdir'].value), ['x', f'--workdir={folder}'], values=values)
    assert seen == [f'{tmp_path}/runs', str(tmp_path), '~else/runs', 'a~/b']


ADVICE = {
    '--config.lr=1': 'did you mean --config.optimizer.lr?',
    '--config.name=x': 'did you mean --config.data.name or --config.model.name or --config.method.name?',
    '--config.batchsize=8': 'did you mean --config.batch_size or --config.eval_batch_size?',
    '--config.method.estimater=jvp': 'did you mean --config.method.estimator?',
    '--config.optimizr.lr=1': 'did you mean --config.optimizer.lr?',
    '--seed=1': "Unknown command line flag 'seed'; did you mean --config.seed?",
    '--total_steps=1': 'did you mean --config.total_steps?',
    '--lr=1': 'did you mean --config.optimizer.lr?',
    '--workdr=1': 'Did you mean: workdir ?',
}


@pytest.mark.parametrize('flag', ADVICE)
def test_did_you_mean(flag):
    with pytest.raises(UserError) as caught:
        parse(flag)
    assert ADVICE[flag] in str(caught.value)


def test_an_empty_value_takes_no_other_argument():
    with pytest.raises(UserError, match=r'^--config=: there is no such file'):
        parse('--config=', '--config.seed=3')
    arguments = ['main.py', '--config.method.name=', '--workdir=runs/x']
    assert config_first(arguments, DIGITS) == ['main.py', f'--config={DIGITS}', *arguments[1:]]


def test_arguments_without_dashes():
    advice = {
        'configs/svhn.py': 'did you mean --config=configs/svhn.py?',
        'configs/svhn.py:fixmatch': 'did you mean --config=configs/svhn.py:fixmatch?',
        'optimizer.lr=0.1': 'did you mean --config.optimizer.lr=0.1?',
        'config.seed=1': 'did you mean --config.seed=1?',
        'runs/mine': 'did you mean --workdir=runs/mine, or --config.data.path=runs/mine?',
        'digits': 'settings are given as --config.FIELD=VALUE',
    }
    for argument, line in advice.items():
        assert advice_on_argument(argument, FIELDS) == line
    assert similar_fields('zzz', FIELDS) == []


def test_comments_by_hand(tmp_path):
    file = tmp_path / 'default.py'
    file.write_text(
        'def get_config():\n'
        '    config = ConfigDict()\n'
        '    config.seed = 0  # of all\n'
        '    config.bare = 1\n'
        '    # No comment of a field.\n'
        '\n'
        '    config.data = data = ConfigDict()\n'
        '    # Above,\n'
        '    # two lines.\n'
        '    data.pad = 4\n'
        '    data.long = (\n'
        '        0.5\n'
        '    )  # behind\n'
        '    return config\n'
    )
    assert field_comments(file) == {
        'seed': 'of all',
        'bare': '',
        'data': '',
        'data.pad': 'Above, two lines.',
        'data.long': 'behind',
    }
    assert field_comments(tmp_path / 'nowhere.py') == {}


def test_help_lists_every_field_with_its_value_and_all_names():
    text = config_help('configs/digits.py')
    fields = [
        line.split('=')[0].strip() for line in text.splitlines() if line.startswith('  ') and '=' in line
    ]
    assert {*fields} >= FIELDS.keys()
    assert '  total_steps=2000' in text
    assert '  optimizer.milestones=1500,1750  the rate falls to a tenth after each' in text
    assert '  batch_size=64                   labeled images a step\n' in text
    assert 'conv_large, conv_small' in text
    assert 'softmatch' in text
    assert 'cifar10' in config_help('configs/cifar10.py:fixmatch')
    assert '  model.name=wide_resnet' in config_help('configs/cifar10.py:fixmatch')


def test_help_shows_the_default_config(capsys):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', None, 'The experiment.', flag_values=values)
    run_command(lambda: pytest.fail('called'), ['x', '--help'], default_config=DIGITS, values=values)
    assert f"(default: '{os.path.relpath(DIGITS, Path.cwd())}')" in capsys.readouterr().out
