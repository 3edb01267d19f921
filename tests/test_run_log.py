import json
import math
import struct
import subprocess
import sys

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from metasemi_jax.training.run_log import RunLog
from small_runs import ROOT


def write(path, start, steps):
    log = RunLog(path, start_step=start)
    for step in steps:
        log.write(step, {'train/loss': step / 4, 'test/error': 100.0 - step})
    log.close()


def steps_in(path):
    return [json.loads(line)['step'] for line in path.read_text().splitlines()]


def masked_crc(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path):
    """TFRecord framing: length, its checksum, the record, its checksum."""
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        record = data[12 : 12 + length]
        assert struct.unpack('<I', data[8:12])[0] == masked_crc(data[:8])
        assert struct.unpack('<I', data[12 + length : 16 + length])[0] == masked_crc(record)
        events.append(Event.FromString(record))
        data = data[16 + length :]
    return events


def scalars(folder):
    return {
        (value.tag, event.step): value.simple_value
        for path in sorted(folder.glob('events.*'))
        for event in read_events(path)
        for value in event.summary.value
    }


def test_lines_of_json(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10, 20])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {'step': 10, 'train/loss': 2.5, 'test/error': 90.0},
        {'step': 20, 'train/loss': 5.0, 'test/error': 80.0},
    ]


def test_a_line_is_in_the_file_before_the_next_step(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    log = RunLog(path, start_step=0)
    log.write(1, {'loss': 0.5})
    assert steps_in(path) == [1]
    log.close()


def test_tensorboard_events_can_be_read(tmp_path):
    write(tmp_path / 'metrics.jsonl', 0, [10, 20])
    assert scalars(tmp_path) == {
        ('train/loss', 10): 2.5,
        ('test/error', 10): 90.0,
        ('train/loss', 20): 5.0,
        ('test/error', 20): 80.0,
    }


def test_a_resumed_run_logs_each_step_once(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10, 20, 30, 40])
    write(path, 20, [30, 40, 50])
    assert steps_in(path) == [10, 20, 30, 40, 50]
    write(path, 0, [10])
    assert steps_in(path) == [10]


def test_tensorboard_is_told_to_forget_what_is_done_again(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10, 20, 30])
    (first,) = tmp_path.glob('events.*')
    first.rename(tmp_path / 'first')
    write(path, 20, [30])
    (second,) = tmp_path.glob('events.*')
    starts = [e.step for e in read_events(second) if e.HasField('session_log')]
    assert starts == [21]


@pytest.mark.parametrize(
    'damage',
    ['{"step": 30, "train/lo', '{"step": 30}', 'null\n', '[]\n', '{"loss": 1}\n', '{"step": null}\n', '\n'],
)
def test_a_half_written_line_is_dropped(tmp_path, damage):
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10, 20])
    with path.open('a') as file:
        file.write(damage)
    write(path, 30, [40])
    assert steps_in(path) == [10, 20, 40]


def test_a_log_that_cannot_be_opened(tmp_path):
    """Files longer than some limit fail here as they do on a full disk."""
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10, 20])
    before = path.read_bytes()
    program = (
        'import resource, sys\n'
        'from pathlib import Path\n'
        'from metasemi_jax.errors import UserError\n'
        'from metasemi_jax.training.run_log import RunLog\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n'
        'try:\n    RunLog(Path(sys.argv[1]), start_step=20)\n'
        'except UserError as error:\n    print(error)\n'
    )
    command = [sys.executable, '-c', program, path]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stderr == ''
    assert found.stdout == (
        f'{path} cannot be written (File too large); nothing was lost: make room there, and the same command '
        'goes on\n'
    )
    assert path.read_bytes() == before


def test_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    write(path, 0, [10])
    write(path, 10, [20])
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith('events.')] == ['metrics.jsonl']


def test_nan_is_logged_as_such(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    log = RunLog(path, start_step=0)
    log.write(1, {'loss': math.nan})
    log.close()
    assert math.isnan(json.loads(path.read_text())['loss'])
    write(path, 1, [2])
    assert steps_in(path) == [1, 2]
