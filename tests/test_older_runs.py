"""A run that a version began which knew MetaSemi alone.

tests/data/run_of_metasemi_alone.zip is its workdir, stopped by SIGTERM after step 26 of 60; ..._end.npz is
the state that the same version came to without a stop.
"""

import json
import zipfile
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from configs import digits
from metasemi_jax.config.form import completed, differing_fields, settled
from metasemi_jax.training.loop import train_and_evaluate
from small_runs import read_log, read_state

DATA = Path(__file__).parent / 'data'
FIELDS = {
    'total_steps': 60,
    'batch_size': 16,
    'log_every': 5,
    'eval_every': 20,
    'checkpoint_every': 20,
    'steps_per_call': 1,
    'ema_decay': 0.9,
    'seed': 3,
    'data.num_labels': 20,
    'model.width': 2,
    'optimizer.warmup_steps': 5,
    'optimizer.milestones': (30, 50),
    'method.rampup_steps': 10,
}


def todays_config():
    config = digits.get_config()
    config.update_from_flattened_dict(FIELDS)
    return config


@pytest.fixture
def begun(tmp_path):
    with zipfile.ZipFile(DATA / 'run_of_metasemi_alone.zip') as file:
        file.extractall(tmp_path)
    return tmp_path


def test_it_goes_on_to_the_same_weights(begun, capsys):
    config = json.loads((begun / 'config.json').read_text())
    assert 'name' not in config['method']
    train_and_evaluate(todays_config(), begun)
    assert 'continuing after step 26' in capsys.readouterr().out
    with np.load(DATA / 'run_of_metasemi_alone_end.npz') as file:
        expected = dict(file)
    state = read_state(begun)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        # The same bits on the machine that wrote them; another one may round otherwise.
        np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert [line['step'] for line in read_log(begun) if 'train/loss' in line] == [
        *range(5, 30, 5), 26, *range(30, 65, 5),
    ]  # fmt: skip


def test_its_config_reads_as_metasemis(begun):
    old = json.loads((begun / 'config.json').read_text())
    assert completed(old)['method']['name'] == 'metasemi'
    assert completed(old)['unlabeled_ratio'] == 1
    assert differing_fields(old, todays_config()) == []
    other = ml_collections.ConfigDict(digits.get_config('fixmatch').to_dict())
    assert 'method.name: metasemi there, fixmatch here' in differing_fields(old, other)
    assert settled({'method.name': 'metasemi'})['method.meta'] is True
