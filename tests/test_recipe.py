import re

import numpy as np
import pytest

from benchmarks.forward_passes import forward_passes
from configs import digits, folder
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.fields import OPEN
from metasemi_jax.config.form import flatten
from metasemi_jax.errors import UserError
from metasemi_jax.files import write_json
from metasemi_jax.methods import method_options
from metasemi_jax.models import create_model
from metasemi_jax.sweep.__main__ import plan
from metasemi_jax.sweep.folder import swept_fields, write_record
from metasemi_jax.training import recipe
from metasemi_jax.training.choices import has_black_border, with_image_size
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recipe import Facts, choose, image_size, sentence
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.reading import read_json
from own_images import write_folder
from small_runs import read_log

MNIST = Facts((28, 28, 1), num_images=8000, black_border=True, accelerator=False, cores=2)


def fields(method=None, **given):
    flat = flatten(folder.get_config(method))
    return flat | {name.replace('__', '.'): value for name, value in given.items()}


def chosen(facts=MNIST, method=None, **given):
    return choose(facts, fields(method, **given))


def test_every_open_field_is_chosen_and_no_other():
    flat = fields()
    values = chosen()
    assert {*OPEN} - {'data.image_size'} <= values.keys()
    assert all(flat[name] is None for name in values)
    config = folder.get_config()
    config.update_from_flattened_dict(values | {'recipe': 'chosen', 'data.image_size': 0})
    check_config(config)


@pytest.mark.parametrize('name', sorted(recipe.RULES))
def test_what_is_given_is_not_chosen(name):
    given = 'fixmatch' if name == 'method.name' else 1
    assert name not in chosen(**{name.replace('.', '__'): given})


def test_dropout_brings_undropped_statistics():
    assert chosen()['undropped_statistics'] is False
    assert chosen(model__dropout_rate=0.5)['undropped_statistics'] is True


def test_a_number_of_steps_moves_the_schedule():
    values = chosen(method='metasemi', total_steps=1000)
    assert values['optimizer.warmup_steps'] == 50
    assert values['method.rampup_steps'] == 200
    assert values['eval_every'] == 50
    assert values['ema_decay'] == 0.9


def test_a_run_of_one_step_does_without_a_warm_up():
    assert chosen(total_steps=1)['optimizer.warmup_steps'] == 0
    assert chosen(total_steps=2)['optimizer.warmup_steps'] == 1


def test_what_a_time_budget_changes_is_not_told():
    assert 'total_steps=' in sentence(chosen())
    told = sentence(chosen(), time_budget=True)
    assert 'total_steps=' not in told
    assert 'warmup_steps=' not in told
    assert 'model.name=conv_small' in told


def test_a_method_has_its_own_options():
    options = ('method.second_view', 'method.temperature', 'method.batch_norm', 'method.rampup_steps')

    def of(method):
        values = chosen(method=method, total_steps=1000)
        return [values[name] for name in options]

    assert of('metasemi') == ['strong', 0.5, None, 200]
    assert of(None) == of('flexmatch') == of('fixmatch') == [None, None, 'labeled', None]
    assert of('mean_teacher') == [None] * 4
    assert chosen()['method.name'] == 'flexmatch'


def test_metasemis_options_choose_metasemi():
    """A sweep with --grid=ablation, above all."""
    assert chosen(method__mixup=False, method__meta=True)['method.name'] == 'metasemi'
    assert chosen(method__meta=True, method__threshold=0.9)['method.name'] == 'flexmatch'


def test_an_option_of_another_method_is_refused(tmp_path):
    np.savez(tmp_path / 'mine.npz', x=np.zeros((6, 8, 8), np.uint8), y=np.arange(6) % 2)
    config = folder.get_config()
    config.data.path = str(tmp_path / 'mine.npz')
    config.method.radius = 6.0
    with pytest.raises(UserError, match=r"method.name=flexmatch has no option 'radius'"):
        train_and_evaluate(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_run_of_an_earlier_recipe_goes_on(tmp_path):
    """MetaSemi was the recipe's method until November 2026."""
    config, files = folder.get_config(), Workdir(tmp_path / 'run')
    begun = folder.get_config('metasemi')
    begun.update_from_flattened_dict(chosen(method='metasemi') | {'recipe': 'chosen', 'data.image_size': 0})
    (files.checkpoints / '4').mkdir(parents=True)
    write_json(files.config, begun.to_dict())
    there = files.with_choices_of_run(config)
    assert (there.method.name, there.method.second_view, there.method.temperature) == (
        'metasemi',
        'strong',
        0.5,
    )
    files.check(there)


@pytest.mark.parametrize('method', ['metasemi', 'supervised', 'uda'])
def test_cheaper_methods_take_more_steps(method):
    """Where the time decides: 2,000 steps of MetaSemi on MNIST."""
    passes = recipe.PASSES.get(method, recipe.OTHER_PASSES)
    assert chosen(method=method)['total_steps'] * passes == pytest.approx(24_000, rel=0.1)
    options = {'batch_norm': 'labeled'} if 'batch_norm' in method_options(method) else {}
    cost = forward_passes(method, create_model('conv_small', 10), (16, 16, 1), 10, **options)
    assert passes == pytest.approx(cost, rel=0.15)


def test_work_by_hand():
    # conv_small of width 1 on one grey pixel in 16: 9·16·(1·(1+1) + 6/4 + 8/16) multiply-adds.
    tiny = MNIST._replace(image_shape=(4, 4, 1))
    assert recipe._multiply_adds(tiny, {'model.width': 1}) == 9 * 16 * 4


def test_steps_follow_cores_size_and_images():
    mnist = chosen()['total_steps']
    assert chosen(MNIST._replace(cores=1))['total_steps'] == pytest.approx(mnist / 2, rel=0.1)
    assert chosen(MNIST._replace(cores=4))['total_steps'] == pytest.approx(mnist * 2, rel=0.1)
    assert chosen(MNIST._replace(cores=64)) == chosen(MNIST._replace(cores=4))
    assert chosen(MNIST._replace(image_shape=(14, 14, 1)))['total_steps'] > mnist
    assert chosen(batch_size=128)['total_steps'] == pytest.approx(mnist / 2, rel=0.1)
    # A hundred images need no more steps for being there.
    assert chosen(MNIST._replace(num_images=100, image_shape=(8, 8, 1)))['total_steps'] == recipe.CPU_STEPS[1]


def test_devices_have_their_networks():
    assert chosen()['model.name'] == 'conv_small'
    assert chosen(MNIST._replace(accelerator=True))['model.name'] == 'conv_large'
    for side, model in ((12, 'conv_large'), (11, 'conv_small')):  # smaller ones conv_large refuses
        values = chosen(MNIST._replace(accelerator=True, image_shape=(28, side, 1)))
        assert values['model.name'] == model
    values = chosen(MNIST._replace(accelerator=True, image_shape=(64, 64, 3)))
    assert values['model.name'] == 'resnet18'
    # ResNet-18 has no such option, and create_model would refuse it.
    assert values['model.dropout_rate'] is None


@pytest.mark.parametrize(('side', 'pad'), [(4, 1), (8, 1), (28, 3), (32, 4), (64, 8)])
def test_crops_grow_with_the_images(side, pad):
    assert chosen(MNIST._replace(image_shape=(side, side, 3)))['data.pad'] == pad


@pytest.mark.parametrize(
    ('sizes', 'one_size', 'accelerator', 'expected'),
    [
        ([(28, 28)], True, False, 0),
        ([(36, 34)], True, False, 0),
        ([(64, 64)], True, False, 32),
        ([(64, 64)], True, True, 0),
        ([(300, 400), (200, 900), (640, 480)], False, False, 32),
        ([(300, 400)], False, True, 64),
        ([(22, 30), (19, 30), (40, 40)], False, True, 20),
        ([(5, 5)], False, False, 8),
        ([], False, False, 32),
    ],
)
def test_image_size(sizes, one_size, accelerator, expected):
    assert image_size(sizes, one_size=one_size, accelerator=accelerator) == expected


def test_border():
    images = np.zeros((700, 6, 6, 3), np.uint8)
    images[:, 1:5, 1:5] = 255
    assert has_black_border(images)
    images[:, 0, :, 1] = 17
    assert has_black_border(images)  # a third is not black
    images[:, :, 0] = 40
    assert not has_black_border(images)


def test_files_are_resized_to_what_they_are(tmp_path):
    write_folder(tmp_path / 'mine')
    config = folder.get_config()
    config.data.path = str(tmp_path / 'mine')
    sized, chosen = with_image_size(config)
    assert sized.data.image_size == chosen['data.image_size'] == 8
    assert config.data.image_size is None
    config.data.path = str(tmp_path / 'nowhere')
    assert with_image_size(config)[1] == {'data.image_size': 32}
    assert with_image_size(digits.get_config()) == (digits.get_config(), {})


def test_only_a_recipe_leaves_fields_open():
    config = folder.get_config()
    check_config(config)
    config.recipe = ''
    with pytest.raises(UserError, match='total_steps=None must be of the type int'):
        check_config(config)


def test_no_flag_but_the_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, 'CPU_STEPS', (4, 4))
    monkeypatch.setattr(recipe, 'EPOCHS', 0)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8)
    labels = np.where(np.arange(40) < 6, np.arange(40) % 3, -1)
    np.savez(tmp_path / 'mine.npz', x=images, y=labels, x_test=images[:9], y_test=labels[[0, 1, 2] * 3])
    config = folder.get_config()
    config.data.path = str(tmp_path / 'mine.npz')
    results = train_and_evaluate(config, tmp_path / 'run')
    assert results['steps'] == 4
    assert results['reported_weights'] in ('raw', 'ema')
    printed = capsys.readouterr().out
    assert 'data.image_size=0' in printed
    there = flatten(read_json(Workdir(tmp_path / 'run').config))
    assert there['recipe'] == 'chosen'
    for name, value in re.findall(r'([a-z_.]+)=([\w.-]+)', sentence(chosen())):
        assert f'{name}=' in printed, (name, value)
        assert there[name] is not None
    assert there['batch_size'] == 64
    # On a machine with other cores, or with another rule, the run is the same.
    monkeypatch.setattr(recipe, 'CPU_STEPS', (400, 400))
    assert train_and_evaluate(config, tmp_path / 'run') == results
    assert read_log(tmp_path / 'run')[-1]['step'] == 4
    config.total_steps = 9
    with pytest.raises(UserError, match='total_steps: 4 there, 9 here'):
        train_and_evaluate(config, tmp_path / 'run')


def test_a_run_that_trained_nothing_chooses_anew(tmp_path):
    config, files = folder.get_config(), Workdir(tmp_path / 'run')
    begun = folder.get_config()
    begun.update_from_flattened_dict(chosen(batch_size=64) | {'recipe': 'chosen', 'data.image_size': 32})
    begun.batch_size = 64
    files.path.mkdir()
    write_json(files.config, begun.to_dict())
    config.batch_size = 8
    assert files.with_choices_of_run(config) is config
    (files.checkpoints / '4').mkdir(parents=True)
    there = files.with_choices_of_run(config)
    assert (there.recipe, there.batch_size, there.data.image_size) == ('chosen', 8, 32)


def test_a_sweep_of_a_recipe_goes_on(tmp_path):
    """Its record has open fields, its runs have chosen theirs."""
    config = folder.get_config()
    (run,) = plan(config, {}, [0], tmp_path)
    write_record(tmp_path, [], config)
    begun = folder.get_config()
    begun.update_from_flattened_dict(chosen() | {'recipe': 'chosen', 'data.image_size': 0})
    run.files.path.mkdir()
    write_json(run.files.config, begun.to_dict())
    (run.files.checkpoints / '4').mkdir(parents=True)
    assert plan(config, {}, [0], tmp_path)[0].config.total_steps is None
    assert swept_fields(tmp_path) == []
    config.data.flip = True
    with pytest.raises(UserError, match=r'data.flip: False there, True here'):
        plan(config, {}, [0], tmp_path)
