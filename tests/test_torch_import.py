"""Workdirs from official checkpoints. PyTorch is needed only where a test writes a file of its own."""

import functools
import json
import os
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as flags_module
from ml_collections import config_flags

from configs import folder as folder_config
from configs import imagenet, svhn
from metasemi_jax.classifier import load_classifier
from metasemi_jax.cli import parse_config_flags
from metasemi_jax.command.config_file import find_config
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.sources import registry as sources
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.torch_import import __main__ as torch_import
from metasemi_jax.torch_import import to_state_dict
from metasemi_jax.torch_import.__main__ import import_checkpoint
from metasemi_jax.torch_import.checkpoint_file import convert_momentum, read_checkpoint, rename_imagenet
from metasemi_jax.torch_import.state_dict import parameter_keys
from metasemi_jax.training.checkpoint import open_checkpoints
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.restore import restore_newest, restore_step
from state_dicts import random_state_dict

# ml_collections loads a config file by a method that Python is about to remove.
loads_a_config = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')


def optimizer_of(keys, buffers):
    """torch.optim.SGD.state_dict() after at least one step."""
    state = {i: {'momentum_buffer': buffers[key]} for i, key in enumerate(keys)}
    group = {'lr': 0.1, 'momentum': 0.9, 'weight_decay': 5e-5, 'params': list(range(len(keys)))}
    return {'state': state, 'param_groups': [group]}


def official(state_dict, step=1200, momentum=None):
    checkpoint = {'step': step, 'model': state_dict, 'best_acc': 91.25}
    if momentum is not None:
        checkpoint['optimizer'] = optimizer_of(parameter_keys(state_dict), momentum)
    return checkpoint


@pytest.fixture(scope='module')
def small():
    return random_state_dict('conv_large', num_classes=4, dtype=np.float32)


@pytest.fixture
def data(monkeypatch):
    """Images of four classes, 12×12, under the name of the real thing."""

    def make():
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (80, 12, 12, 3), np.uint8)
        labels = (np.arange(80) % 4).astype(np.int32)
        ids = np.array([f'{i:02d}' for i in range(60)])
        return sources.Dataset(images[:60], labels[:60], ids, images[60:], labels[60:], tuple('abcd'))

    monkeypatch.setitem(sources.SOURCES, 'synthetic', make)
    return 'synthetic'


def small_config(data_name='synthetic', total_steps=4):
    config = svhn.get_config()
    config.data.name, config.data.num_labels = data_name, 8
    config.batch_size, config.total_steps, config.model.width = 6, total_steps, 4
    config.optimizer.warmup_steps, config.method.rampup_steps = 2, 2
    config.checkpoint_every = config.eval_every = config.log_every = 2
    return config


@functools.cache
def template_of(data_name):
    return build_experiment(small_config(data_name), make_mesh()).state


def restore(workdir, config, step=None):
    template = template_of(config.data.name)
    manager = open_checkpoints(workdir / 'checkpoints')
    try:
        if step is None:
            return restore_newest(manager, template).state
        return restore_step(manager, template, step).state
    finally:
        manager.close()


def as_official(state):
    """A checkpoint as the authors' program would have written it in this state."""
    model = to_state_dict('conv_large', {'params': state.params, 'batch_stats': state.batch_stats})
    trace = next(part.trace for part in state.opt_state if hasattr(part, 'trace'))
    momentum = to_state_dict('conv_large', {'params': trace})
    return official(model, int(state.step), momentum)


def test_an_imported_run_continues_bit_for_bit_by_its_momentum(data, tmp_path):
    config = small_config()
    train_and_evaluate(config, str(tmp_path / 'whole'))
    checkpoint = as_official(restore(tmp_path / 'whole', config, step=2))
    whole = restore(tmp_path / 'whole', config)

    import_checkpoint(checkpoint, config, tmp_path / 'imported')
    classifier = load_classifier(tmp_path / 'imported')
    assert (classifier.step, classifier.class_names) == (2, tuple('abcd'))
    assert classifier.input_spec == InputSpec((12, 12, 3), config.data.mean, config.data.std)
    results = train_and_evaluate(config, str(tmp_path / 'imported'))
    imported = restore(tmp_path / 'imported', config)
    assert (int(imported.step), results['steps']) == (4, 4)
    jax.tree.map(np.testing.assert_array_equal, imported, whole)

    del checkpoint['optimizer']
    import_checkpoint(checkpoint, config, tmp_path / 'bare')
    bare = restore(tmp_path / 'bare', config)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(bare.opt_state))
    jax.tree.map(
        np.testing.assert_array_equal, bare.params, restore(tmp_path / 'whole', config, step=2).params
    )


def test_a_finished_checkpoint_is_evaluated(small, data, tmp_path):
    config = small_config(total_steps=1200)
    import_checkpoint(official(small), config, tmp_path / 'run')
    results = train_and_evaluate(config, str(tmp_path / 'run'))
    assert 0 <= results['test_error_last'] <= 100


def test_without_the_images_the_split_is_left_to_the_run(small, data, tmp_path, monkeypatch):
    config = small_config(total_steps=1200)
    with monkeypatch.context() as patch:
        patch.delitem(sources.SOURCES, 'synthetic')
        lines = import_checkpoint(official(small), config, tmp_path / 'run')
    assert 'the images are missing now' in lines[-1]
    assert not (tmp_path / 'run' / 'labeled_ids.txt').exists()
    with pytest.raises(UserError, match=r'class_names.json is missing, .* imports without their'):
        load_classifier(tmp_path / 'run')
    train_and_evaluate(config, str(tmp_path / 'run'))
    assert load_classifier(tmp_path / 'run').class_names == tuple('abcd')
    assert len((tmp_path / 'run' / 'labeled_ids.txt').read_text().split()) == 8


def test_momentum_goes_to_its_parameter_and_is_zero_where_there_is_none(small):
    momentum = {key: np.full_like(value, i) for i, (key, value) in enumerate(small.items())}
    keys = parameter_keys(small)
    optimizer = optimizer_of(keys, momentum)
    # The ids of old PyTorch versions are memory addresses; only their order counts.
    optimizer['param_groups'][0]['params'] = [1000 + i for i in range(len(keys))]
    optimizer['state'] = {1000 + i: state for i, state in optimizer['state'].items()}
    del optimizer['state'][1001]
    optimizer['state'][1002]['momentum_buffer'] = None
    tree = to_state_dict('conv_large', {'params': convert_momentum('conv_large', small, optimizer)})
    expected = {key: momentum[key] for key in keys}
    for key in keys[1:3]:
        expected[key] = np.zeros_like(small[key])
    assert list(tree) == keys
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'step': 1201}, 'step 1201 is not within total_steps=1200'),
        ({'step': -1}, 'step -1 is not within'),
        ({'step': 'last'}, "'step' is no number: last"),
        ({'step': float('inf')}, "'step' is no number: inf"),
        ({'step': float('nan')}, "'step' is no number: nan"),
        ({'model': {}}, 'no mapping'),
        ({'optimizer': {'state': {}}}, "no state of PyTorch's SGD"),
        ({'optimizer': [1]}, "no state of PyTorch's SGD"),
        ({'optimizer': optimizer_of(['x'], {'x': np.zeros(1)})}, 'optimizer has 1 parameters, its model 29'),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_nothing(small, data, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        import_checkpoint(official(small) | change, small_config(total_steps=1200), tmp_path / 'run')
    assert '\n' not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_momentum_classes_width_weights_and_folder_leave_nothing(small, data, tmp_path):
    config = small_config(total_steps=1200)
    momentum = {**small, 'block3.1.bias': np.zeros(5, np.float32)}
    poisoned = {**small, 'block3.1.bias': np.full(4, np.nan, np.float32)}
    five = random_state_dict('conv_large', num_classes=5)
    wide = random_state_dict('conv_large', num_classes=4, width=5)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'notes').touch()
    for checkpoint, folder, message in (
        (
            official(small, momentum=momentum),
            'run',
            "momentum does not fit its model: 'block3.1.bias' has",
        ),
        (official(poisoned), 'run', 'not finite .*block3'),
        (official(five), 'run', '5 classes.*has 4'),
        (official(wide), 'run', 'width 5, not 4; add --config.model.width=5'),
        (official(small), 'full', 'is not empty; name a new folder'),
        (official(small), 'full/notes', 'notes is a file'),
    ):
        with pytest.raises(UserError, match=message):
            import_checkpoint(checkpoint, config, tmp_path / folder)
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['full', 'notes']


def test_another_optimizer_has_no_use_for_the_momentum(small, data, tmp_path):
    config = small_config(total_steps=1200)
    config.optimizer.name = 'adam'
    with pytest.raises(
        UserError, match=r'is of SGD, not of optimizer.name=adam; add --config.optimizer.name'
    ):
        import_checkpoint(official(small), config, tmp_path / 'run')
    assert list(tmp_path.iterdir()) == []


def run_command(*args):
    """The exit message, or None where it ended well."""
    try:
        torch_import.main(['torch_import.py', *map(str, args)])
    except SystemExit as exit_:
        return exit_.code
    return None


@loads_a_config
def test_command_with_the_pinned_flags(small, tmp_path, monkeypatch, capsys):
    momentum = {key: np.ones_like(value) for key, value in small.items()}
    monkeypatch.setattr(torch_import, 'read_checkpoint', lambda path: official(small, 1200, momentum))
    monkeypatch.setattr(sources, 'SOURCES', {})
    assert run_command('model_best.pth', '--model=conv_large', f'--workdir={tmp_path / "run"}') is None
    out = capsys.readouterr().out
    assert 'width 4, 4 classes, after 1,200 of 400,000 steps, with the momentum' in out
    assert 'configs/svhn.py --config.model.width=4' in out.splitlines()[-1]
    config = svhn.get_config()
    config.model.width = 4
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert saved == json.loads(json.dumps(config.to_dict()))
    assert os.listdir(tmp_path / 'run' / 'checkpoints') == ['1200']


@loads_a_config
def test_the_line_to_continue_has_every_setting_however_it_was_written(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch_import, 'read_checkpoint', lambda path: official(small, 1200))
    monkeypatch.setattr(sources, 'SOURCES', {})
    flags = [
        '--config.seed',
        '3',
        '--config',
        'cifar10',
        '--config.optimizer.milestones=(5, 7)',
        '--noconfig.data.flip',
    ]
    assert run_command('model_best.pth', f'--workdir={tmp_path / "run"}', *flags) is None
    command = capsys.readouterr().out.splitlines()[-1].removeprefix('to continue: ')
    given = shlex.split(command)[2:]
    assert find_config(given[0].removeprefix('--config=')).name == 'cifar10.py'
    assert {'--config.seed=3', '--config.optimizer.milestones=(5, 7)', '--config.data.flip=False'} < {*given}
    # Given to a command, it makes the config that was saved.
    values = flags_module.FlagValues()
    config_flags.DEFINE_config_file('config', None, '', flag_values=values)
    flags_module.DEFINE_string('workdir', None, '', flag_values=values)
    parse_config_flags(values, ['main.py', *given])
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert json.loads(json.dumps(values['config'].value.to_dict())) == saved


@loads_a_config
@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'name one checkpoint'),
        (['a.pth', 'b.pth', '--workdir=x'], "unexpected argument 'b.pth'"),
        (['a.pth'], '--workdir is missing'),
        (['a.pth', '--workdir=x', '--config=nowhere.py'], 'there is no such file'),
        (['a.pth', '--workdir=x', '--config.nothing=1'], "unknown config field 'nothing'"),
        (['a.pth', '--workdir=x', '--config.seed=one'], 'must be a whole number'),
        (['a.pth', '--workdir=x', '--modle=conv_large'], 'modle'),
        (['a.pth', '--workdir=x'], 'a.pth: there is no such file'),
    ],
)
def test_command_line_mistakes_end_in_one_line(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = run_command(*args)
    assert line.startswith('error: ')
    assert message in line
    assert '\n' not in line
    assert list(tmp_path.iterdir()) == []


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_does_not_run(tmp_path):
    torch = pytest.importorskip('torch')
    torch.save({'step': 1, 'model': {}, 'best_acc': Malicious(tmp_path / 'made')}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil.pth would run \w+.mkdir when loaded; it was not run'):
        read_checkpoint(tmp_path / 'evil.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['evil.pth']


@pytest.mark.parametrize('contents', [b'', b'no pickle', b'PK\x03\x04 cut short'])
def test_a_damaged_file_is_named(tmp_path, contents):
    (tmp_path / 'a.pth').write_bytes(contents)
    with pytest.raises(UserError, match=r'a.pth is no PyTorch file, or a damaged one'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_file_of_pytorchs_own_is_read_with_its_momentum(small, data, tmp_path):
    torch = pytest.importorskip('torch')
    keys = parameter_keys(small)
    model = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in small.items()}
    optimizer = torch.optim.SGD([model[key] for key in keys], lr=0.1, momentum=0.9, weight_decay=5e-5)
    for i, key in enumerate(keys):
        model[key].grad = torch.full_like(model[key], i)
    before = {key: tensor.detach().clone() for key, tensor in model.items()}
    optimizer.step()
    checkpoint = {'step': 1200, 'model': {k: v.detach() for k, v in model.items()}}
    checkpoint |= {'best_acc': np.float64(91.25), 'optimizer': optimizer.state_dict()}
    torch.save(checkpoint, tmp_path / 'model_best.pth')

    config = small_config(total_steps=1200)
    lines = import_checkpoint(read_checkpoint(tmp_path / 'model_best.pth'), config, tmp_path / 'run')
    assert lines[0].endswith('its best accuracy is 91.25')
    state = as_official(restore(tmp_path / 'run', config))
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(state['model'][key], checkpoint['model'][key])
        buffer = state['optimizer']['state'][i]['momentum_buffer']
        np.testing.assert_allclose(buffer, i + 5e-5 * before[key].numpy(), rtol=1e-6)


def test_bfloat16_tensors_keep_their_dtype(small):
    torch = pytest.importorskip('torch')
    tensors = {key: torch.tensor(value).bfloat16() for key, value in small.items()}
    bias = torch_import.convert_state_dict('conv_large', tensors)['params']['classifier']['bias']
    assert bias.dtype == jnp.bfloat16


def imagenet_checkpoint(as_tensor=np.asarray):
    """Other keys, epochs for steps, and the names that DataParallel gives; and the weights."""
    arrays = random_state_dict('resnet18', num_classes=5, dtype=np.float32)
    state_dict = {f'module.{key}': as_tensor(value) for key, value in arrays.items()}
    momentum = {key: as_tensor(np.full_like(value, 0.25)) for key, value in state_dict.items()}
    checkpoint = {'epoch': 300, 'arch': 'resnet18', 'state_dict': state_dict, 'best_acc1': 55.5}
    return checkpoint | {'optimizer': optimizer_of(parameter_keys(state_dict), momentum)}, arrays


def test_checkpoints_of_the_imagenet_program():
    checkpoint, arrays = imagenet_checkpoint()
    renamed = rename_imagenet(checkpoint)
    # Half of the 1,351,232 steps of configs/imagenet.py.
    assert (renamed['step'], renamed['best_acc']) == (675_616, 55.5)
    assert rename_imagenet(checkpoint | {'epoch': 600})['step'] == imagenet.get_config().total_steps
    assert rename_imagenet(checkpoint | {'epoch': 'last'})['step'] == 'last'
    variables = to_state_dict('resnet18', torch_import.convert_state_dict('resnet18', renamed['model']))
    for key in variables:
        np.testing.assert_array_equal(variables[key], arrays[key])
    trace = convert_momentum('resnet18', renamed['model'], renamed['optimizer'])
    assert all((leaf == 0.25).all() for leaf in jax.tree.leaves(trace))


def test_a_file_of_the_imagenet_program(tmp_path):
    torch = pytest.importorskip('torch')
    checkpoint, arrays = imagenet_checkpoint(torch.as_tensor)
    torch.save(checkpoint | {'best_acc1': torch.tensor(55.5)}, tmp_path / 'checkpoint.pth.tar')
    read = read_checkpoint(tmp_path / 'checkpoint.pth.tar')
    assert (read['step'], float(read['best_acc'])) == (675_616, 55.5)
    np.testing.assert_array_equal(read['model']['module.fc.weight'], arrays['fc.weight'])


def test_a_recipe_that_is_open_is_refused(small, tmp_path):
    """It would choose a number of steps, and a schedule, that the checkpoint never saw."""
    with pytest.raises(UserError, match="recipe='auto' leaves open what the checkpoint was trained with"):
        import_checkpoint(official(small), folder_config.get_config(), tmp_path / 'run')
    assert list(tmp_path.iterdir()) == []
