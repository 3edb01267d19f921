"""What a run says while it trains."""

import io
import re
import types

import jax
import jax.numpy as jnp
import pytest

from metasemi_jax import progress
from metasemi_jax.progress import Pace, ProgressLine
from metasemi_jax.training import recorder as recorder_module
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.recorder import Recorder
from small_runs import tiny_config


class Log:
    def write(self, step, scalars):
        pass


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    fake = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(progress, 'time', fake)
    monkeypatch.setattr(recorder_module, 'time', fake)
    return now


def make_recorder(stream, *, started=100.0):
    return Recorder(
        None,
        Log(),
        ProgressLine(stream),
        Pace(0, 1000, images_per_step=64),
        total_steps=1000,
        num_classes=10,
        identity={},
        started=started,
        record=None,
    )


def test_the_first_step_of_an_accelerator_tells_no_pace(clock, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    stream = io.StringIO()
    recorder = make_recorder(stream)
    recorder.compiling()
    clock[0] += 12
    recorder.compiled(0)
    clock[0] += 2
    recorder.first_call_done(1, {'loss': jnp.ones(2)})
    assert stream.getvalue().splitlines()[-1] == 'first step after 14.0 s, 12.0 s of them for compiling'


def test_the_first_step_tells_the_time_to_go(clock):
    """A step of 7 s: the whole run, 2 hours, is known when the first is done, not at the log of step 100."""
    stream = io.StringIO()
    recorder = make_recorder(stream)
    clock[0] += 3
    recorder.compiling()
    assert stream.getvalue() == 'compiling the training step ...\n'
    clock[0] += 12
    recorder.compiled(0)
    clock[0] += 7
    recorder.first_call_done(1, {'loss': jnp.ones(2)})
    assert stream.getvalue().splitlines()[-1] == (
        'first step after 22.0 s, 12.0 s of them for compiling; at its pace 1 h 56 min to go, but '
        'the next steps are faster'
    )
    # The next step takes longer than the 5 s after which a line is due; no loss was logged yet.
    clock[0] += 7
    recorder.tick(2)
    assert stream.getvalue().splitlines()[-1] == 'step 2/1000  1 h 56 min to go  9 images/s'
    clock[0] += 1
    recorder.tick(3)
    assert stream.getvalue().splitlines()[-1].startswith('step 2/1000')


def test_an_error_of_an_earlier_step_says_so(clock):
    stream = io.StringIO()
    recorder = make_recorder(stream)
    state = types.SimpleNamespace(variables={}, ema={'params': {}, 'batch_stats': {}})
    errors = iter([12.2, 8.6])
    probe = {'labeled_loss': 0.1, 'batch_statistics_loss': 0.1}
    recorder.evaluate(400, state, lambda _: {'test': {'error': next(errors)}}, lambda _: probe)
    clock[0] += 10
    recorder.show(400)
    recorder.show(500)
    shown = stream.getvalue().splitlines()
    assert '  test error 12.20% (EMA 8.60%)  ' in shown[0]
    assert '  test error 12.20% (EMA 8.60%) at step 400  ' in shown[1]


def test_a_run_says_it_all_in_order(tmp_path, capsys):
    train_and_evaluate(tiny_config(total_steps=6), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index('compiling the training step ...')
    assert re.fullmatch(
        r'first step after [\d.]+ s, [\d.]+ s of them for compiling; at its pace .* to go, .*',
        lines[begin + 1],
    )
    assert re.match(r'step 2/6  loss [\d.]+  \S+ s to go', lines[begin + 2])
    assert re.match(r'step 4/6  loss [\d.]+  test error [\d.]+%  ', lines[begin + 3])
    assert re.match(r'step 6/6  loss [\d.]+  test error [\d.]+%  ', lines[begin + 4])
