"""What a run records: metrics, evaluations, checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metasemi_jax import metrics
from metasemi_jax.errors import DivergedError, as_user_error, reason_of
from metasemi_jax.metrics import Metrics, all_finite
from metasemi_jax.progress import Pace, ProgressLine, Ticks, duration
from metasemi_jax.results import Evaluation
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import amend_checkpoint, save_checkpoint
from metasemi_jax.training.run_log import RunLog
from metasemi_jax.training.watch import Look, Warned, new_warnings

NEW_RUN = 'Start again in a new workdir with a lower optimizer.lr'


class Recorder:
    """Logs, evaluates and saves when the loop says so; `record` is its part of a checkpoint."""

    def __init__(
        self,
        manager: ocp.CheckpointManager,
        log: RunLog,
        progress: ProgressLine,
        pace: Pace,
        *,
        total_steps: int,
        num_classes: int,
        identity: dict[str, str],
        started: float,
        record: dict[str, Any] | None,
        rollbacks: int = 0,
    ):
        """Go on from a checkpoint, or begin.

        Args:
          manager, log, progress, pace: destinations of checkpoints, metrics, lines for people and timings.
          total_steps: steps of the whole run.
          num_classes: K.
          identity: checksums of the run's data, kept in every checkpoint.
          started: a `time.perf_counter()`.
          record: metadata of the checkpoint that the run goes on from; None in a new run.
          rollbacks: rollbacks so far; each halves the learning rate. The larger of this number and the one
            in `record` counts: a checkpoint does not know of rollbacks to it.
        """
        self._manager, self._log, self._progress, self._pace = manager, log, progress, pace
        self._total_steps, self._num_classes = total_steps, num_classes
        self._identity, self._started = identity, started
        self._throughput = math.nan
        self._ticks = Ticks(in_place=progress.in_place)
        record = record or {}
        # Imported checkpoints and those of older versions lack some of it.
        self._loss = record.get('loss', math.nan)
        self._seconds_before = record.get('seconds', 0.0)
        self.history = [Evaluation(*row) for row in record.get('history', [])]
        self.looks = [Look(*row) for row in record.get('looks', [])]
        self.warnings = [Warned(*row) for row in record.get('warnings', [])]
        self.rollbacks = max(rollbacks, record.get('rollbacks', 0))
        # Sums of the window that a stop cut in two, on the host.
        self.window = {name: np.float32(pair) for name, pair in record.get('window', {}).items()}

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, all its restarts added up."""
        return self._seconds_before + time.perf_counter() - self._started

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.say(line)

    def compiling(self) -> None:
        """Say that nothing will move for a while."""
        self.say('compiling the training step ...')
        self._compiling_since = time.perf_counter()

    def compiled(self, step: int) -> None:
        """Measure the pace of the first call, which begins now after `step`."""
        self._compiling = time.perf_counter() - self._compiling_since
        self._pace.restart(step)

    def first_call_done(self, step: int, sums: Metrics) -> None:
        """Say how long the start and the first call took; waits for the device."""
        jax.block_until_ready(sums)
        line = (
            f'first step after {time.perf_counter() - self._started:.1f} s, {self._compiling:.1f} s of them '
            'for compiling'
        )
        # On an H100 the first call loads its kernels for a second, and a step then takes a millisecond.
        if jax.default_backend() == 'cpu':
            to_go = duration(self._pace.seconds_to_go(step))
            line += f'; at its pace {to_go} to go, but the next steps are faster'
        self.say(line)
        # The first call is slower than the others.
        self._pace.restart(step)
        self._ticks = Ticks(in_place=self._progress.in_place)

    def log(self, step: int, sums: Metrics) -> None:
        """Write out the means since the last log; waits for the device.

        Raises:
          DivergedError: the loss is no longer finite. Nothing of this window is saved.
        """
        means = metrics.compute(sums)
        throughput = self._pace.images_per_second(step)
        if not math.isfinite(means['loss']):
            raise self._diverged(f'the loss is {means["loss"]}', step)
        self._write(step, {f'train/{k}': v for k, v in means.items()} | {'images_per_second': throughput})
        self._loss, self._throughput = means['loss'], throughput

    def tick(self, step: int) -> None:
        """Between two logs, renew the progress line once in a while; never waits for the device."""
        if self._ticks.due():
            self._throughput = self._pace.images_per_second(step)
            self._show(step)

    def show(self, step: int) -> None:
        """Renew the progress line, and leave what was done since `log` out of the pace."""
        self._show(step)
        self._pace.resume(step)

    def _show(self, step: int) -> None:
        loss = '' if math.isnan(self._loss) else f'  loss {self._loss:.4f}'
        # The throughput comes last: a narrow terminal cuts it off first.
        self._progress.show(
            f'step {step}/{self._total_steps}{loss}{self._last_errors(step)}  '
            f'{duration(self._pace.seconds_to_go(step))} to go  {self._throughput:,.0f} images/s'
        )

    def _last_errors(self, step: int) -> str:
        if not self.history:
            return ''
        evaluated, errors = self.history[-1]
        shown = ''
        for name in ('validation_error', 'test_error'):
            if name in errors:
                shown += f'  {name.replace("_", " ")} {errors[name]:.2f}%'
            if f'ema_{name}' in errors:
                shown += f' (EMA {errors[f"ema_{name}"]:.2f}%)'
        return shown if evaluated == step else f'{shown} at step {evaluated}'

    def evaluate(
        self, step: int, state: TrainState, evaluate: Any, probe: Callable[[dict], dict[str, float]]
    ) -> bool:
        """Evaluate raw and EMA weights; returns whether the error that selects is the lowest so far.

        An equal error counts as lower: among equal steps the latest is the best.
        """
        scalars, errors = {}, {}
        weights = {'': state.variables}
        if state.ema:
            weights['ema_'] = state.ema
        for prefix, variables in weights.items():
            for split, values in evaluate(variables).items():
                scalars |= {f'{split}/{prefix}{name}': value for name, value in values.items()}
                errors[f'{prefix}{split}_error'] = values['error']
        self.history.append(Evaluation(step, errors))
        seen = probe(weights[''])
        self._write(step, scalars | {f'probe/{name}': value for name, value in seen.items()})
        self.looks.append(Look(step, self._loss, **seen))
        for warned in new_warnings(
            self.looks, known=self.warnings, total_steps=self._total_steps, num_classes=self._num_classes
        ):
            self.warnings.append(warned)
            self.say(f'warning at step {step}: {warned.message}')
        lowest = min(evaluation.selection_error for evaluation in self.history)
        return self.history[-1].selection_error == lowest

    def show_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Hand uint8 [H, W, 3] images to TensorBoard, by tag."""
        with self._named():
            self._log.write_images(step, images)

    def evaluated(self, step: int) -> bool:
        """Whether `step` is the last one that was evaluated."""
        return bool(self.history) and self.history[-1].step == step

    def save(
        self, step: int, state: TrainState, *, sums: Metrics | None = None, scheduled: bool = True
    ) -> None:
        """Start to write a checkpoint.

        Args:
          sums: sums of the metrics since the last log, where a stop cuts that window in two.
          scheduled: whether an undisturbed run saves here too.

        Raises:
          DivergedError: the state is no longer finite; then nothing is written.
        """
        if not all_finite(state):
            raise self._diverged('a parameter or statistic is not finite', step)
        error = self.history[-1].selection_error if self.evaluated(step) else None
        record = self._record({} if sums is None else jax.device_get(sums))
        save_checkpoint(self._manager, state, record, step=step, error=error, scheduled=scheduled)

    def amend(self, step: int, state: TrainState) -> None:
        """Write the evaluation of `step` into its checkpoint, which was saved before."""
        error = self.history[-1].selection_error
        amend_checkpoint(self._manager, state, self._record({}), step=step, error=error)

    def _record(self, window: dict[str, np.ndarray]) -> dict[str, Any]:
        return {
            'history': [list(evaluation) for evaluation in self.history],
            'looks': [list(look) for look in self.looks],
            'warnings': [list(warned) for warned in self.warnings],
            # Python's floats hold every float32 exactly.
            'window': {name: pair.tolist() for name, pair in window.items()},
            'loss': self._loss,
            'seconds': self.seconds,
            'rollbacks': self.rollbacks,
        } | self._identity

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        with self._named():
            self._log.write(step, scalars)

    def _named(self) -> AbstractContextManager[None]:
        """Make an OSError of the log a UserError."""

        def message(error: OSError) -> str:
            what = f'metrics.jsonl cannot be written ({reason_of(error)}); {self._last_saved()}'
            return f'{what}: make room, and the same command goes on from it'

        return as_user_error(OSError, message)

    def _last_saved(self) -> str:
        # A checkpoint that is being written may yet fail as well.
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        saved = self._manager.latest_step()
        return 'nothing was saved yet' if saved is None else f'the last good checkpoint is of step {saved}'

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(
            f'{what} at step {step}; {self._last_saved()}',
            f'{NEW_RUN}, or add on_nonfinite=rollback to go on at half the rate',
            rollbacks=self.rollbacks,
        )
