"""Runs stop and go on: of a method with a state, of one with a teacher, of MetaSemi over FixMatch."""

import os
import shutil
import signal
import subprocess

import pytest

from configs import digits
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.run_log import RunLog
from small_runs import ROOT, TINY, assert_same_state, main_command, read_log, read_state

METHODS = {
    'flexmatch': {'unlabeled_ratio': 2, 'method.threshold': 0.2},
    'mean_teacher': {},
    'fixmatch': {'unlabeled_ratio': 2, 'method.threshold': 0.2, 'method.meta': True},
}


def config_of(name):
    config = digits.get_config(name)
    tiny = {field: value for field, value in TINY.items() if not field.startswith('method.')}
    config.update_from_flattened_dict(tiny | METHODS[name])
    return config


@pytest.mark.parametrize('name', METHODS)
def test_a_stop_and_a_kill_change_no_bit(tmp_path, monkeypatch, capsys, name):
    undisturbed, stopped, killed = (tmp_path / folder for folder in ('undisturbed', 'stopped', 'killed'))
    train_and_evaluate(config_of(name), undisturbed)
    expected = read_state(undisturbed)
    assert any(field.startswith("['method']") for field in expected) == (name == 'flexmatch')
    assert any(field.startswith("['ema']") for field in expected) == (name == 'mean_teacher')

    write = RunLog.write

    def signal_at_step_6(self, step, scalars):
        write(self, step, scalars)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, 'write', signal_at_step_6)
        with pytest.raises(SystemExit) as caught:
            train_and_evaluate(config_of(name), stopped)
    assert caught.value.code == 128 + signal.SIGTERM
    assert read_state(stopped)["['step']"] < 12
    train_and_evaluate(config_of(name), stopped)
    assert_same_state(read_state(stopped), expected)

    # What a kill after the save of step 8 leaves: the log is ahead of the checkpoint.
    shutil.copytree(undisturbed, killed)
    (killed / 'results.json').unlink()
    shutil.rmtree(killed / 'checkpoints' / '12')
    capsys.readouterr()
    train_and_evaluate(config_of(name), killed)
    assert 'continuing after step 8' in capsys.readouterr().out
    assert_same_state(read_state(killed), expected)
    assert read_log(killed) == read_log(undisturbed)


def test_a_real_kill_changes_no_bit_of_a_methods_state(tmp_path, capsys):
    """SIGKILL of flexmatch as a user runs it, a moment behind a log line."""
    longer = {'total_steps': 200, 'eval_every': 100, 'checkpoint_every': 10, 'log_every': 10}
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    config = config_of('flexmatch')
    config.update_from_flattened_dict(longer)
    given = {field: value for field, value in TINY.items() if not field.startswith('method.')}
    given |= METHODS['flexmatch'] | longer | {'method.name': 'flexmatch'}
    process = subprocess.Popen(
        main_command(*(f'--config.{field}={value}' for field, value in given.items()), f'--workdir={killed}'),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    for line in process.stdout:
        if line.startswith('step ') and int(line[5:].split('/')[0].replace(',', '')) >= 40:
            break
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    train_and_evaluate(config, undisturbed)
    capsys.readouterr()
    train_and_evaluate(config, killed)
    assert 'continuing after step ' in capsys.readouterr().out
    assert_same_state(read_state(killed), read_state(undisturbed))
    assert read_log(killed) == read_log(undisturbed)
