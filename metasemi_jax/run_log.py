"""Where a run's figures go: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class RunLog:
    """Appends scalars to metrics.jsonl and to TensorBoard's event files."""

    def __init__(self, metrics_file: Path, *, start_step: int):
        """Continue the log of a run that goes on from `start_step`; what it logged later is done again."""
        _drop_after(metrics_file, start_step)
        self._file = metrics_file.open('a')
        self._tensorboard = SummaryWriter(str(metrics_file.parent), purge_step=start_step + 1)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of JSON, handed to the system at once, so that a kill loses none."""
        self._file.write(json.dumps({'step': step, **scalars}) + '\n')
        self._file.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self._file.close()
        self._tensorboard.close()


def _drop_after(metrics_file: Path, step: int) -> None:
    """Cut the lines of steps that a resumed run will do again, and a half-written last line."""
    if not metrics_file.exists():
        return
    kept = []
    for line in metrics_file.read_text().splitlines(keepends=True):
        try:
            if line.endswith('\n') and json.loads(line)['step'] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    beside = metrics_file.with_name('.metrics.jsonl.tmp')
    beside.write_text(''.join(kept))
    beside.replace(metrics_file)
