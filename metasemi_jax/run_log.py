"""Where a run's figures go: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from metasemi_jax.workdir import write_atomically


class RunLog:
    """Appends scalars to metrics.jsonl and to TensorBoard's event files."""

    def __init__(self, metrics_file: Path | None, *, start_step: int):
        """Continue the log of a run that goes on from `start_step`; what it logged later is done again.

        `metrics_file`: None writes nothing, as of several processes all but the first.
        """
        self._writes = metrics_file is not None
        if not self._writes:
            return
        _drop_after(metrics_file, start_step)
        self._file = metrics_file.open('a')
        self._tensorboard = SummaryWriter(str(metrics_file.parent), purge_step=start_step + 1)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of JSON, handed to the system at once, so that a kill loses none."""
        if not self._writes:
            return
        self._file.write(json.dumps({'step': step, **scalars}) + '\n')
        self._file.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)
        # It would hold them back for minutes, and a resumed run does not log them again.
        self._tensorboard.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writes:
            self._file.close()
            self._tensorboard.close()


def _drop_after(metrics_file: Path, step: int) -> None:
    """Cut the lines of steps that a resumed run will do again, and what a kill left half-written."""
    if not metrics_file.exists():
        return
    kept = {}
    for line in metrics_file.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
            if line.endswith(b'\n') and entry['step'] <= step:
                # Killed between an evaluation and its checkpoint, a run evaluates that step again.
                kept[entry['step'], *entry] = line
        # JSON's and Unicode's errors are ValueErrors too.
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(metrics_file, b''.join(kept.values()))
