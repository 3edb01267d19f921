import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.methods import METHODS
from metasemi_jax.sweep.grid import parse_grid, parse_seeds, settings


def test_values_have_the_types_of_their_fields():
    text = 'optimizer.lr=0.03, 1; method.estimator=jvp,exact;method.meta=true,False;batch_size=8'
    grid = parse_grid(text)
    assert grid == {
        'optimizer.lr': [0.03, 1.0],
        'method.estimator': ['jvp', 'exact'],
        'method.meta': [True, False],
        'batch_size': [8],
    }
    assert [type(value) for values in grid.values() for value in values] == [
        *[float] * 2,
        *[str] * 2,
        *[bool] * 2,
        int,
    ]
    assert parse_grid('model.width=None,4') == {'model.width': [None, 4]}
    assert parse_grid('optimizer.milestones=(8,10),[4],()') == {'optimizer.milestones': [(8, 10), (4,), ()]}
    assert parse_grid('') == {}


def test_the_ablation_is_the_papers_two_by_two():
    meta, mixup = 'method.meta', 'method.mixup'
    assert settings(parse_grid('ablation')) == [
        {meta: False, mixup: False},
        {meta: True, mixup: False},
        {meta: False, mixup: True},
        {meta: True, mixup: True},
    ]
    assert len(settings(parse_grid('ablation;optimizer.lr=0.03,0.1,0.3'))) == 12
    assert settings({}) == [{}]


def test_the_grid_of_methods_names_all():
    assert settings(parse_grid('methods')) == [{'method.name': name} for name in METHODS]
    assert parse_grid('method.name=fixmatch, uda') == {'method.name': ['fixmatch', 'uda']}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('ablatoin', "'ablatoin' is neither FIELD=VALUE,VALUE nor ablation"),
        ('optimizer.rl=1', "unknown config field 'optimizer.rl'; configs/default.py lists them all"),
        ('optimizer=1', "unknown config field 'optimizer'"),
        ('seed=1,2', 'seeds are given as --seeds=0,1,2'),
        ('optimizer.lr=', "optimizer.lr='' must be of the type float"),
        ('optimizer.lr=0.1,', "optimizer.lr='' must be of the type float"),
        ('optimizer.lr=fast', "optimizer.lr='fast' must be of the type float"),
        ('batch_size=1.5', "batch_size='1.5' must be of the type int"),
        ('method.meta=1', "method.meta='1' must be of the type bool"),
        ('optimizer.milestones=8,10', "optimizer.milestones='8' must be of the type list of ints"),
        ('optimizer.milestones=(8', 'must be of the type list of ints'),
        ('optimizer.lr=0.1,0.10', 'optimizer.lr names 0.1 twice'),
        ('optimizer.lr=0.1;optimizer.lr=0.2', 'optimizer.lr is named twice'),
        ('ablation;method.meta=True', 'method.meta is named twice'),
    ],
)
def test_what_is_no_grid(text, message):
    with pytest.raises(UserError) as caught:
        parse_grid(text)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_seeds():
    assert parse_seeds(['3', ' 0']) == [3, 0]
    for texts, message in ((['1', 'x'], "seed='x'"), (['1', '1'], 'names 1 twice'), ([], '--seeds is empty')):
        with pytest.raises(UserError, match=message):
            parse_seeds(texts)
