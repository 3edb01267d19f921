"""The comparison of all methods at equal computation."""

import json

import pytest

from benchmarks import compare
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import flatten
from metasemi_jax.methods import METHODS

SHARED = compare.Shared('digits', 20, passes=1200)
# What a method brings along, and what follows from its cost.
OWN = {'total_steps', 'eval_every', 'checkpoint_every', 'optimizer.warmup_steps'}


@pytest.fixture
def cheap(monkeypatch):
    """Steps of 12 passes where the gradient of labels is taken, else of 6, without compiling any."""
    monkeypatch.setattr(compare, 'passes_of_step', lambda row, ratio: 12.0 if 'meta' in row.label else 6.0)


def test_each_method_has_a_row_with_and_one_without_the_meta_gradient():
    labels = [row.label for row in compare.rows()]
    assert len({*labels}) == len(labels)
    for name in {*METHODS} - {'supervised', 'metasemi'}:
        assert {name, f'{name}+meta'} <= {*labels}
    assert {'supervised', 'mixup_only', 'metasemi', 'metasemi_strong'} <= {*labels}


@pytest.mark.usefixtures('cheap')
def test_rows_differ_in_the_method_and_in_what_its_cost_decides():
    configs = {row.label: compare.make_config(row, SHARED, 3) for row in compare.rows()}
    for config in configs.values():
        check_config(config)
    flat = {label: flatten(config) for label, config in configs.items()}
    first = flat['supervised']
    for fields in flat.values():
        differing = {name for name in fields if fields[name] != first[name]}
        assert {name for name in differing if not name.startswith('method.')} <= OWN
    assert flat['fixmatch']['total_steps'] == 200
    assert flat['fixmatch+meta']['total_steps'] == 100
    assert flat['fixmatch+meta']['method.meta']


def test_a_step_is_counted_by_what_it_computes():
    plain, meta = (compare.Row('', 'pseudo_label', options) for options in ({}, {'meta': True}))
    assert compare.passes_of_step(plain, 1) == pytest.approx(6, abs=0.2)
    assert compare.passes_of_step(meta, 1) == pytest.approx(12, abs=0.4)


def test_the_table_has_the_finished_runs_alone(tmp_path):
    for seed, error in ((0, 3.0), (1, 5.0), (2, None)):
        folder = tmp_path / f'fixmatch,seed={seed}'
        folder.mkdir()
        if error is not None:
            results = {'seed': seed, 'steps': 546, 'test_error_last': 9.0, 'ema_test_error_last': error}
            (folder / 'results.json').write_text(json.dumps(results))
    assert compare.table(tmp_path, compare.rows()).splitlines()[2:] == [
        '| fixmatch | 546 | 4.0 ± 1.4 | 3.0 5.0 |'
    ]
