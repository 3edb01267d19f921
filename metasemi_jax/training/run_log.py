"""The log of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.files import write_atomically


class RunLog:
    """Appends scalars to metrics.jsonl and to TensorBoard's event files; an OSError where that cannot be."""

    def __init__(self, metrics_file: Path | None, *, start_step: int):
        """Continue the log of a run that goes on from `start_step`; what it logged later is done again.

        Args:
          metrics_file: path of metrics.jsonl; None: write nothing (every process but the primary).
          start_step: lines of later steps are dropped.

        Raises:
          UserError: the files cannot be written.
        """
        self._writes = metrics_file is not None
        if not self._writes:
            return
        advice = 'nothing was lost: make room there, and the same command goes on'
        unwritten = f'{metrics_file} cannot be written'
        with as_user_error(OSError, lambda error: f'{unwritten} ({reason_of(error)}); {advice}'):
            _drop_after(metrics_file, start_step)
            self._file = metrics_file.open('a')
            # `SummaryWriter` writes in a thread, where a full disk would end in a traceback of its own.
            # Event files are named by the second, in which a run may be stopped and continued.
            suffix = f'.{os.getpid()}.{time.monotonic_ns()}'
            self._events = EventsWriter(str(metrics_file.with_name('events')), suffix)
            self._add_event(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of JSON and one event, handed to the system at once, so that a kill loses none."""
        if not self._writes:
            return
        self._file.write(json.dumps({'step': step, **scalars}) + '\n')
        self._file.flush()
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add_event(step, summary=Summary(value=values))

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """One event of uint8 [H, W, 3] images by tag, for TensorBoard alone."""
        if not self._writes or not images:
            return
        values = [Summary.Value(tag=tag, image=_image_summary(pixels)) for tag, pixels in images.items()]
        self._add_event(step, summary=Summary(value=values))

    def close(self) -> None:
        """Close the files."""
        if not self._writes:
            return
        # What is still unwritten here could not be written before, and `write` has said so.
        # tensorboardX leaves its file open where a last flush fails; Python 3.13 reports that at the end.
        for file in (self._file, self._events, self._events._py_recordio_writer):
            with contextlib.suppress(OSError):
                file.close()

    def _add_event(self, step: int, **content: SessionLog | Summary) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()


def _image_summary(pixels: np.ndarray) -> Summary.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'png')
    height, width, channels = pixels.shape
    return Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue()
    )


def read_lines(metrics_file: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Each line of metrics.jsonl with what it says: 'step', an int, and finite numbers by their names.

    The second is None where a line is damaged, or another program's.
    """
    if not metrics_file.exists():
        return
    if not metrics_file.is_file():
        raise UserError(f'{metrics_file} is no file; move it away')
    for line in metrics_file.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        # JSON's and Unicode's errors are ValueErrors too.
        except (ValueError, RecursionError):
            yield line, None
            continue
        step = entry.get('step') if isinstance(entry, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
            yield line, None
            continue
        numbers = {name: value for name, value in entry.items() if isinstance(value, int | float)}
        yield line, {name: value for name, value in numbers.items() if abs(value) <= sys.float_info.max}


def _drop_after(metrics_file: Path, step: int) -> None:
    """Cut the lines of steps that a resumed run will do again, and what a kill left half-written."""
    kept = {}
    for line, entry in read_lines(metrics_file):
        if entry and line.endswith(b'\n') and entry['step'] <= step:
            # Killed between an evaluation and its checkpoint, a run evaluates that step again.
            kept[entry['step'], *entry] = line
    if metrics_file.exists():
        write_atomically(metrics_file, b''.join(kept.values()))
