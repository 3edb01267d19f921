"""Bad input to every command: one line, exit code 1, no traceback, and nothing in any folder changed.

A row is (command, arguments, part of the message). In the arguments {run} is a finished run, {unfinished} one
without results, {new} a folder that does not exist, {image} a picture, {text} a file of text, {empty} an
empty folder, {config} a folder of config files (`CONFIG_FILES`). Add rows to `ROWS`.
"""

import itertools
import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.config.fields import FIELDS
from small_runs import ROOT, contents, main_of, make_run, tiny_config

CONFIG_FILES = {
    'raises.py': 'def get_config():\n    return 1 / 0\n',
    'none.py': 'def get_config():\n    pass\n',
    'exits.py': 'import sys\nsys.exit(0)\n',
    'syntax.py': 'def get_config(:\n',
    'function.py': 'from configs import digits\n\n\ndef get_config():\n    c = digits.get_config()\n'
    '    c.unlock()\n    c.seed = None\n    c.model.update({"name": "conv_small"})\n    del c["seed"]\n'
    '    c.seed = len\n    return c\n',
    'numpy_.py': 'import numpy as np\nfrom configs import digits\n\n\ndef get_config():\n'
    '    c = digits.get_config()\n    del c["seed"]\n    c.seed = np.int64(3)\n    return c\n',
    'lacks.py': 'from configs import digits\n\n\ndef get_config():\n    c = digits.get_config()\n'
    '    del c["seed"]\n    return c\n',
    'binary.py': '\x00\x01',
}
FILE_ROWS = {
    'raises.py': 'raises.py, line 2: ZeroDivisionError: division by zero',
    'none.py': 'get_config() returned a NoneType',
    'exits.py': 'exits.py, line 2 ends the program',
    'syntax.py': 'syntax.py, line 1: invalid syntax',
    'function.py': 'seed=<built-in function len> is of the type builtin_function_or_method',
    'numpy_.py': 'is of the type int64',
    'lacks.py': "the config lacks 'seed'",
    'binary.py': 'binary.py',
    'nowhere.py': 'there is no such file',
}
WITH_CONFIG = {'main': '', 'sweep': '', 'torch_import': '{text}'}
WITH_RUN = {
    'predict': '--split=test --workdir={}',
    'export': '--workdir={}',
    'visualize': '{}',
    'report': '{}',
}


def field_rows():
    """Values that no run can have, of each field."""
    for name, field in FIELDS.items():
        bad = {int: [-1 - 2**31, 'many', 1.5], float: ['nan', 1e39, 'much'], bool: ['maybe']}.get(
            field.kind, []
        )
        if field.many:
            bad = ['x,y']
        for value in bad:
            yield 'main', f'--config.{name}={value}', ''
    for name in ('dtype', 'data.crop', 'data.pad_mode', 'method.estimator', 'optimizer.name', 'on_nonfinite'):
        yield 'main', f'--config.{name}=other', f'{name}=other must be one of '


def command_rows():
    """What every command refuses."""
    for command in (*WITH_CONFIG, *WITH_RUN):
        yield command, '--nope=1', "Unknown command line flag 'nope'"
        yield command, '--workdir', ''
    for (command, rest), (file, message) in itertools.product(WITH_CONFIG.items(), FILE_ROWS.items()):
        # An import looks at the checkpoint, which is none, before it checks the settings.
        if command != 'torch_import' or file not in ('function.py', 'numpy_.py', 'lacks.py'):
            yield command, f'{rest} --workdir={{new}} --config={{config}}/{file}', message
        yield command, f'{rest} --workdir={{new}} --config.lr=1', 'did you mean --config.optimizer.lr?'
        yield command, f'{rest} --workdir={{new}} --seed=1', 'did you mean --config.seed?'
    for command, rest in WITH_RUN.items():
        for folder in ('{new}', '{text}', '{empty}'):
            yield command, rest.format(folder), ''


ROWS = [
    *field_rows(),
    *command_rows(),
    ('main', 'configs/svhn.py', 'did you mean --config=configs/svhn.py?'),
    ('main', 'optimizer.lr=1', 'did you mean --config.optimizer.lr=1?'),
    (
        'main',
        '--config.data.path={empty}',
        'is not used with data.name=digits; add --config=configs/folder.py',
    ),
    ('main', '--config.data.image_size=32', 'is not used with data.name=digits'),
    ('main', '--config.data.pad=20000', 'could show nothing of them; use at most 7'),
    ('main', '--config.data.pad=8', 'could show nothing of them; use at most 7'),
    ('main', '--config.batch_size=1000000000', 'at most 1,048,576 are possible'),
    ('main', '--config.unlabeled_ratio=100000', 'at most 1,048,576 are possible'),
    ('main', '--config.optimizer.milestones=3000000000', 'must be less than 2**31'),
    ('main', '--config.seed=4294967296', 'less than 2**32'),
    ('main', '--config.data.name=digit', 'there is no source for this dataset'),
    ('main', '--config.model.name=vgg', "model.name 'vgg' is unknown"),
    ('main', '--config.method.name=magic', 'method.name=magic must be one of'),
    ('main', '--config.data.num_labels=5000', 'asks for 500 labels of class 0'),
    ('main', '--config.data.num_labels=55', 'cannot be shared evenly'),
    ('main', '--config.data.split_file={new}', ''),
    ('main', '--config.data.mean=0.5', 'data.mean and data.std'),
    ('main', '--config.optimizer.name=adam --config.optimizer.nesterov=True', 'has no Nesterov momentum'),
    ('main', '--config.method.xi=1', "method.name=metasemi has no option 'xi'"),
    ('main', '--workdir={text}', 'is a file; name another folder'),
    ('main', '--workdir={run}', 'holds a run with another config'),
    ('main', '--process_id=1', '--coordinator and --num_processes must be given too'),
    ('main', '--num_processes=many', 'must be a whole number'),
    ('sweep', '--grid=ablation', '--workdir is missing'),
    ('sweep', '--workdir={new} --grid=ablatoin', "'ablatoin' is neither FIELD=VALUE,VALUE nor ablation"),
    ('sweep', '--workdir={new} --grid=optimizer.rl=1', "unknown config field 'optimizer.rl'"),
    ('sweep', '--workdir={new} --grid=seed=1', 'seeds are given as --seeds=0,1,2'),
    ('sweep', '--workdir={new} --grid=batch_size=1.5', 'must be of the type int'),
    ('sweep', '--workdir={new} --grid=batch_size=0,8', 'batch_size=0 must be more than 0'),
    ('sweep', '--workdir={new} --grid=optimizer.lr=nan', 'optimizer.lr=nan must not be negative'),
    ('sweep', '--workdir={new} --grid=optimizer.lr=1;optimizer.lr=2', 'is named twice'),
    ('sweep', '--workdir={new} --seeds=1,1', 'names 1 twice'),
    ('sweep', '--workdir={new} --seeds=x', "seed='x' must be of the type int"),
    ('sweep', '--workdir={new} --seeds=-1', 'seed=-1 must be at least 0'),
    ('sweep', '--workdir={new} --jobs=0', '--jobs=0'),
    ('sweep', '--workdir={run}', 'holds a run; name another folder'),
    ('sweep', '--workdir={text}', 'is a file; name another folder'),
    ('torch_import', '', 'name one checkpoint'),
    ('torch_import', '{text}', '--workdir is missing'),
    ('torch_import', '{text} {text} --workdir={new}', 'unexpected argument'),
    ('torch_import', '{text} --workdir={run}', 'is not empty'),
    ('torch_import', '{new} --workdir={new}', ''),
    ('predict', '--workdir={run}', 'nothing to classify'),
    ('predict', '{image}', '--workdir is missing'),
    ('predict', '--workdir={run} --split=test {image}', 'not both'),
    ('predict', '--workdir={run} --split=train', '--split=train'),
    ('predict', '--workdir={run} --split=test --unlabeled', 'name two splits'),
    ('predict', '--workdir={run} --weights=mean {image}', '--weights=mean'),
    ('predict', '--workdir={run} --weights=best {image}', ''),
    ('predict', '--workdir={run} --batch_size=-1 {image}', '--batch_size=-1'),
    ('predict', '--workdir={run} --output={empty} {image}', 'is a folder'),
    ('predict', '--workdir={run} --output={new}/x/y.csv {image}', 'cannot be written'),
    ('predict', '--workdir={run} {new}', ''),
    ('predict', '--workdir={run} {empty}', ''),
    ('predict', '--workdir={run} {text}', ''),
    ('export', '', '--workdir is missing'),
    ('export', '--workdir={run} {image}', 'unexpected argument'),
    ('export', '--workdir={run} --weights=mean', '--weights=mean'),
    ('export', '--workdir={run} --output={empty}', 'is a folder'),
    ('visualize', '', 'name the folders of runs'),
    ('visualize', '{run} --num_points=1', '--num_points=1'),
    ('visualize', '{run} --seed=-1', '--seed=-1'),
    ('visualize', '{run} --split=train', '--split=train'),
    ('visualize', '{run} --weights=mean', '--weights=mean'),
    ('visualize', '{run} --output={text}', ''),
    ('report', '', 'name the folders of runs'),
    ('report', '{unfinished}', 'no run is finished'),
    ('report', '{run} --by=nope', '--by=nope: there is no such setting'),
    ('report', '{run} --by=seed', '--by=seed: there is no such setting'),
]
ROWS = list(dict.fromkeys(ROWS))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bad')
    make_run(folder / 'run', tiny_config())
    shutil.copytree(folder / 'run', folder / 'unfinished')
    results = {'test_error_last': 9.0, 'test_error_median20': 9.0, 'test_error_best': 9.0, 'steps': 12}
    results |= {'seed': 0, 'reported_weights': 'raw', 'wall_time_s': 1.0, 'rollbacks': 0}
    (folder / 'run' / 'results.json').write_text(json.dumps(results))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / 'image.png')
    (folder / 'text.png').write_text('no picture')
    (folder / 'empty').mkdir()
    (folder / 'config').mkdir()
    for name, text in CONFIG_FILES.items():
        (folder / 'config' / name).write_text(text)
    return folder


def test_there_are_rows_of_every_command():
    assert len(ROWS) >= 150
    assert {command for command, _, _ in ROWS} == {*WITH_CONFIG, *WITH_RUN}


@pytest.mark.parametrize(('command', 'arguments', 'message'), ROWS)
def test_bad_input_ends_in_one_line(command, arguments, message, folder, monkeypatch, capfd):
    names = ('run', 'unfinished', 'new', 'empty', 'config')
    places = {name: folder / name for name in names}
    arguments = arguments.format(image=folder / 'image.png', text=folder / 'text.png', **places)
    monkeypatch.setattr('sys.argv', ['pytest'])
    monkeypatch.setattr('sys.dont_write_bytecode', True)
    monkeypatch.chdir(ROOT)
    argv = [command, *shlex.split(arguments.replace(';', r'\;'))]
    if command == 'main' and '--workdir' not in arguments:
        argv.append(f'--workdir={folder / "new"}')
    before = contents(folder)
    with pytest.raises(SystemExit) as caught:
        main_of(command)(argv)
    line = caught.value.code
    assert isinstance(line, str), line
    assert line.startswith('error: ')
    assert len(line.splitlines()) == 1
    assert message in line
    assert capfd.readouterr().err == ''
    assert contents(folder) == before
