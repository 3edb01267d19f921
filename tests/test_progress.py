import io
import re
import types

import pytest

from metasemi_jax import progress
from metasemi_jax.progress import ImageCounter, Pace, ProgressLine, Ticks, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_in_a_file_lines_follow_each_other():
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.show('one')
    line.show('two')
    line.say('stays')
    line.close()
    assert stream.getvalue() == 'one\ntwo\nstays\n'


def test_in_a_terminal_the_line_is_rewritten():
    stream = Terminal()
    line = ProgressLine(stream)
    line.show('first, long')
    line.show('second')
    assert stream.getvalue() == '\rfirst, long\x1b[K\rsecond\x1b[K'
    line.say('stays')
    line.show('third')
    line.close()
    line.close()
    # What a terminal shows, line by line: the last text after each carriage return.
    shown = [row.split('\r')[-1].removesuffix('\x1b[K') for row in stream.getvalue().split('\n')]
    assert shown == ['second', 'stays', 'third', '']


def test_a_line_is_cut_to_the_terminal_but_not_in_a_file(monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        ProgressLine(stream).show('x' * 50)
    assert terminal.getvalue() == '\r' + 'x' * 19 + '\x1b[K'
    assert file.getvalue() == 'x' * 50 + '\n'


def test_by_default_it_writes_to_standard_output(capsys):
    ProgressLine().show('hello')
    assert capsys.readouterr().out == 'hello\n'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0.4, '0 s'),
        (59.4, '59 s'),
        (59.6, '1 min 00 s'),
        (125, '2 min 05 s'),
        (3599.7, '1 h 00 min'),
        (12_060, '3 h 21 min'),
        (360_000, '100 h 00 min'),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_pace_by_hand(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))
    pace = Pace(10, 110, images_per_step=8)
    clock[0] += 5  # compilation, and one step
    pace.restart(11)
    clock[0] += 2
    assert pace.images_per_second(21) == 40  # 10 steps of 8 in 2 s
    clock[0] += 2  # an evaluation
    pace.resume(21)
    # 10 steps took 4 s with the evaluation: 89 more take 35.6 s.
    assert pace.seconds_to_go(21) == pytest.approx(35.6)
    clock[0] += 4
    assert pace.images_per_second(31) == 20
    assert pace.seconds_to_go(110) == 0


def test_pace_at_once_is_finite(monkeypatch):
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(perf_counter=lambda: 1.0))
    pace = Pace(5, 10, images_per_step=8)
    assert pace.images_per_second(5) == 0
    assert pace.seconds_to_go(5) == 0


@pytest.mark.parametrize(('in_place', 'shown'), [(True, [5, 10, 15, 20, 25, 30]), (False, [5, 15])])
def test_ticks_come_every_5_seconds_in_a_terminal_and_ever_more_rarely_in_a_file(
    monkeypatch, in_place, shown
):
    clock = [0.0]
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))
    ticks, seen = Ticks(in_place=in_place), []
    for clock[0] in range(34):
        if ticks.due():
            seen.append(clock[0])
    assert seen == shown


@pytest.mark.parametrize(
    ('stream', 'shown'), [(Terminal(), [100, 200, 300, 350]), (io.StringIO(), [300, 350])]
)
def test_a_counter_waits_by_the_stream_that_it_writes_to(monkeypatch, stream, shown):
    """Not by standard output, which may be a file beside a terminal, or a terminal beside a log."""
    clock = [0.0]
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(perf_counter=lambda: clock[0]))
    count = ImageCounter(ProgressLine(stream), 'read')
    for clock[0] in (0.04 * i for i in range(1, 351)):
        count(350)
    assert [int(number) for number in re.findall(r'read (\d+)/350 images', stream.getvalue())] == shown
    assert 'read 350/350 images, 25 images/s' in stream.getvalue()
