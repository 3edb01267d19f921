"""Runs that begin with published weights: their network, normalisation, frozen layers and rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import folder
from metasemi_jax.classifier import load_classifier, predict_images
from metasemi_jax.config.form import flatten
from metasemi_jax.errors import UserError
from metasemi_jax.models import create_model, variable_shapes
from metasemi_jax.models.trained_parts import HEAD, frozen_layers, trained_parts
from metasemi_jax.models.vision_transformer import head_width, resized_positions
from metasemi_jax.optimizer import by_layer, make_optimizer
from metasemi_jax.torch_import.state_dict import convert_body
from metasemi_jax.train_step import TrainState
from metasemi_jax.training import published_weights
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recipe import Facts, choose
from metasemi_jax.training.run_log import RunLog
from metasemi_jax.workdir.reading import read_json
from own_images import own_config, write_folder
from small_runs import ROOT, assert_same_state, contents, main_of, read_state
from torch_files import tiny_state_dict, write_pth, write_safetensors
from trained_step import check_step

VIT = {'width': 16, 'depth': 2}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('images') / 'own')


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
    """A file of a ViT for images of 48×48, which has nine patches."""
    path = tmp_path_factory.mktemp('weights') / 'vit.safetensors'
    return write_safetensors(path, tiny_state_dict('vit_s16', side=48, **VIT))


def config_of(images, weights, **changed):
    fields = {'model__name': None, 'model__width': None, 'data__mean': (), 'data__std': ()}
    fields |= {'data__image_size': 32, 'model__init_from': str(weights), 'optimizer__lr': 0.1}
    with (config := own_config(images)).ignore_type():
        config.update_from_flattened_dict(
            {name.replace('__', '.'): value for name, value in (fields | changed).items()}
        )
    return config


def state_of(workdir):
    """The saved parameters and statistics by path, those of the average too."""
    return {name: leaf for name, leaf in read_state(workdir).items() if 'opt_state' not in name}


def test_a_run_from_a_file_is_killed_goes_on_and_predicts(images, vit, tmp_path, monkeypatch, capsys):
    """Without the file: config.json names what it decided."""
    config = config_of(images, vit, model__trained_blocks=1, optimizer__body_lr_scale=0.5, checkpoint_every=2)
    train_and_evaluate(config, tmp_path / 'whole')
    out = capsys.readouterr().out
    assert f'model.init_from: vit_s16 of {vit}, but for the last layer, of 7 classes there' in out
    assert 'normalisation of the weights, data.mean=(0.5, 0.5, 0.5)' in out
    saved = read_json(tmp_path / 'whole' / 'config.json')
    assert saved['data']['mean'] == saved['data']['std'] == [0.5] * 3
    assert saved['model']['name'].startswith('vit_')
    assert (saved['model']['width'], saved['model']['depth']) == (16, 2)

    write = RunLog.write

    def die(self, step, scalars):
        write(self, step, scalars)
        if step == 2:
            raise RuntimeError('died')

    moved = vit.with_name('moved')
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, 'write', die)
        with pytest.raises(RuntimeError):
            train_and_evaluate(config, tmp_path / 'run')
    train_and_evaluate(config, tmp_path / 'run')
    assert_same_state(state_of(tmp_path / 'run'), state_of(tmp_path / 'whole'))
    vit.rename(moved)
    try:
        train_and_evaluate(config, tmp_path / 'run')
        classifier = load_classifier(tmp_path / 'run')
    finally:
        moved.rename(vit)
    assert classifier.input_spec.mean == (0.5,) * 3
    assert predict_images(classifier, np.zeros((2, 32, 32, 3), np.uint8)).probs.shape == (2, 2)

    body = convert_body('vit_s16', tiny_state_dict('vit_s16', side=48, **VIT))['params']
    body['pos_embed'] = np.asarray(resized_positions(body['pos_embed'], (3, 3), (2, 2)))
    for name, layer in body.items():
        same = [
            np.array_equal(leaf, there)
            for leaf, there in zip(
                jax.tree.leaves(layer), jax.tree.leaves(classifier.variables['params'][name]), strict=True
            )
        ]
        # What is frozen is the file's to the bit; what is not has moved.
        assert all(same) if name not in ('block_1', 'norm') else not any(same), name


def test_the_users_normalisation_and_network_stay(images, vit, tmp_path, capsys):
    half = (0.25, 0.25, 0.25)
    config = config_of(images, vit, data__mean=half, data__std=half, total_steps=2, optimizer__warmup_steps=0)
    train_and_evaluate(config, tmp_path / 'run')
    assert 'data.mean=(0.25, 0.25, 0.25) and data.std=(0.25, 0.25, 0.25) are given' in capsys.readouterr().out
    assert load_classifier(tmp_path / 'run').input_spec.mean == half


def command(images, *flags):
    return ['main.py', '--config=configs/folder.py', f'--config.data.path={images}', *flags]


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--config.model.name=resnet18'], 'is a vit_s16, and model.name=resnet18; add --config.model.name='),
        (['--config.data.image_size=40'], 'patches of 16×16, and 40×40 is no multiple; add --config.data.'),
        (['--config.model.trained_blocks=3'], 'model.trained_blocks=3: the network has 2 blocks'),
        (['--config.model.width=32'], 'attn_proj/bias is (16,) there, (32,) here; leave model.width and'),
        (['--config.model.init_from={half}'], 'half.safetensors is cut short'),
        (['--config.model.init_from={evil}'], 'evil.pth would run'),
        (['--config.model.init_from={other}'], 'other.pth is of another network'),
        (['--config.model.init_from={nowhere}'], 'nowhere.pth: there is no such file'),
        (['--config.model.init_from={folder}'], 'holds no run (no config.json)'),
    ],
)
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
def test_what_does_not_fit_ends_in_a_line(images, vit, tmp_path, monkeypatch, flags, message):
    files = {name: tmp_path / f'{name}.pth' for name in ('evil', 'other', 'nowhere')}
    files |= {'half': tmp_path / 'half.safetensors', 'folder': tmp_path}
    files['half'].write_bytes(vit.read_bytes()[:9000])
    write_pth(files['other'], {'features.weight': np.ones((2, 2), np.float32)})
    files['evil'].write_bytes(b'\x80\x02cposix\nsystem\n(Vexit\ntR.')
    before = contents(tmp_path)
    monkeypatch.chdir(ROOT)
    flags = [f'--config.model.init_from={vit}', '--config.total_steps=2', *flags]
    flags = [flag.format(**files) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        main_of('main')(command(images, *flags, f'--workdir={tmp_path / "run"}'))
    # A text for a code is what Python prints on stderr before it exits with 1.
    error = ended.value.code
    assert error.startswith('error: ')
    assert message in error
    assert '\n' not in error
    assert contents(tmp_path) == before


def test_grey_images_are_colour_ones_of_equal_channels(images, tmp_path):
    state_dict = tiny_state_dict('resnet18', width=2)
    path = write_pth(tmp_path / 'a.pth', state_dict, older=True)
    model = create_model('resnet18', 3, width=2)
    grey = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model, (32, 32, 1)))
    state = TrainState.create(zeros, make_optimizer('sgd'), with_ema=True)
    form = published_weights.InputSpec((32, 32, 1), (0.45,), (0.22,))
    state, note = published_weights.begin_from_file(state, model, form, str(path), 'resnet18')
    colour = convert_body('resnet18', state_dict)
    colour['params'][HEAD] = state.params[HEAD]

    @jax.jit
    def features(variables, images):
        return model.apply(variables, images, train=False, return_features=True)[1]

    ours = features({'params': state.params, 'batch_stats': state.batch_stats}, grey)
    np.testing.assert_allclose(ours, features(colour, jnp.repeat(grey, 3, axis=-1)), rtol=1e-4, atol=1e-5)
    assert 'of 7 classes there' in note


PHOTOS = Facts((64, 64, 3), num_images=3000, black_border=False, accelerator=False, cores=2)


def test_the_recipe_of_published_weights():
    drawn = flatten(folder.get_config()) | {'model.name': 'resnet18'}
    given = drawn | {'model.init_from': 'resnet18.pth'}
    ours, drawn = choose(PHOTOS, given), choose(PHOTOS, drawn)
    assert (ours['optimizer.lr'], drawn['optimizer.lr']) == (0.01, 0.1)
    assert (ours['batch_size'], drawn['batch_size']) == (16, 64)
    assert ours['total_steps'] < drawn['total_steps']
    assert choose(PHOTOS._replace(accelerator=True), given)['total_steps'] == 5000


def test_the_last_blocks_by_hand():
    vit = create_model('vit_s16', 3, depth=3, trained_blocks=1)
    assert trained_parts(vit) == [False, False, False, True, True]
    assert frozen_layers(vit) == {'patch_embed', 'cls_token', 'pos_embed', 'reg_token', 'block_0', 'block_1'}
    assert frozen_layers(vit.clone(trained_blocks=None)) == frozenset()
    light = create_model('efficientnet_lite0', 3, trained_blocks=0)
    assert trained_parts(light) == [False] * 18
    assert {'conv_stem', 'bn_head', 'block_15'} <= frozen_layers(light)
    # All blocks, and the stem is frozen.
    assert frozen_layers(create_model('resnet18', 3, trained_blocks=8)) == {'conv1', 'bn1'}
    with pytest.raises(UserError, match='trained_blocks=9: the network has 8 blocks'):
        frozen_layers(create_model('resnet18', 3, trained_blocks=9))


def test_a_width_that_heads_cannot_share_is_refused():
    assert [head_width(width) for width in (4, 64, 384)] == [4, 64, 64]
    for width in (2, 100):
        with pytest.raises(UserError, match=f'model.width={width}: a vision transformer needs a multiple'):
            head_width(width)


def test_rates_by_hand():
    params = {'body': {'kernel': jnp.ones(2)}, 'ice': {'kernel': jnp.ones(2)}, HEAD: {'kernel': jnp.ones(2)}}
    plain = make_optimizer('sgd', momentum=0.5, weight_decay=0.1)
    assert by_layer(plain, head=HEAD) is plain
    tx = by_layer(plain, head=HEAD, frozen={'ice'}, body_lr_scale=0.25)
    state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    # g + wθ = 1.1, with momentum 1.1 + 0.55; a quarter of it for the body.
    for expected in (1.1, 1.65):
        updates, state = tx.update(grads, state, params)
        flat = {name: float(layer['kernel'][0]) for name, layer in updates.items()}
        assert flat == pytest.approx({'body': expected / 4, 'ice': 0, HEAD: expected})


STEPS = [
    ('vit_s16', VIT, 1, 'metasemi'),
    ('dinov2_s14_registers', {'width': 16, 'depth': 1}, None, 'fixmatch'),
    ('resnet18', {'width': 2}, 1, 'fixmatch'),
    ('efficientnet_lite0', {'width': 4}, 1, 'fixmatch'),
]


@pytest.mark.parametrize(('name', 'sizes', 'blocks', 'method'), STEPS)
def test_a_step_moves_what_is_trained(name, sizes, blocks, method):
    check_step(name, sizes, blocks, method)
