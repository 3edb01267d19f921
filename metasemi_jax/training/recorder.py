"""What a run keeps of itself: figures, evaluations, checkpoints."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from metasemi_jax import metrics
from metasemi_jax.errors import DivergedError, UserError
from metasemi_jax.metrics import Metrics, all_finite
from metasemi_jax.progress import Pace, ProgressLine, duration
from metasemi_jax.results import Evaluation
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.checkpoint import save_checkpoint
from metasemi_jax.training.run_log import RunLog

NEW_RUN = 'Start again in a new --workdir with a lower optimizer.lr'


class Recorder:
    """Logs, evaluates and saves when the loop says so; `record` is what a checkpoint keeps of it."""

    def __init__(
        self,
        manager: ocp.CheckpointManager,
        log: RunLog,
        progress: ProgressLine,
        pace: Pace,
        *,
        total_steps: int,
        split_sha256: str,
        data_sha256: str,
        started: float,
        record: dict[str, Any] | None,
        rollbacks: int = 0,
    ):
        """Go on from a checkpoint, or begin.

        Args:
          manager, log, progress, pace: where things go.
          total_steps: of the whole run.
          split_sha256, data_sha256: kept in every checkpoint.
          started: a `time.perf_counter()`.
          record: of the checkpoint that the run goes on from.
          rollbacks: how often this process went back to it, with those of the record the halvings of the
            learning rate.
        """
        self._manager, self._log, self._progress, self._pace = manager, log, progress, pace
        self._total_steps = total_steps
        self._identity = {'split_sha256': split_sha256, 'data_sha256': data_sha256}
        self._started = started
        self._loss = self._speed = math.nan
        self._seconds_before = record['seconds'] if record else 0.0
        self.history = [Evaluation(*row) for row in record['history']] if record else []
        # An imported checkpoint has none.
        self.rollbacks = max(rollbacks, record.get('rollbacks', 0) if record else 0)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, all its restarts added up."""
        return self._seconds_before + time.perf_counter() - self._started

    def say(self, line: str) -> None:
        """A line for people, that stays."""
        self._progress.say(line)

    def first_call_done(self, step: int, sums: Metrics) -> None:
        """Say how long the start took, and measure the pace from here on: this call compiled."""
        metrics.compute(sums)
        self.say(f'first step after {time.perf_counter() - self._started:.1f} s, compilation included')
        self._pace.restart(step)

    def log(self, step: int, sums: Metrics) -> None:
        """Write out the means since the last log; waits for the device.

        Raises:
          DivergedError: the loss is no longer finite. Nothing of this window is saved.
        """
        means = metrics.compute(sums)
        speed = self._pace.images_per_second(step)
        if not math.isfinite(means['loss']):
            raise self._diverged(f'the loss is {means["loss"]}', step)
        self._write(step, {f'train/{k}': v for k, v in means.items()} | {'images_per_second': speed})
        self._loss, self._speed = means['loss'], speed

    def show(self, step: int) -> None:
        """Renew the progress line, and leave what was done since `log` out of the pace."""
        errors = self.history[-1].errors if self.history else {}
        shown = ''
        for name in ('validation_error', 'test_error'):
            if name in errors:
                shown += f'  {name.replace("_", " ")} {errors[name]:.2f}%'
            if f'ema_{name}' in errors:
                shown += f' (EMA {errors[f"ema_{name}"]:.2f}%)'
        # The speed comes last: a narrow terminal cuts it off first.
        self._progress.show(
            f'step {step}/{self._total_steps}  loss {self._loss:.4f}{shown}  '
            f'{duration(self._pace.seconds_to_go(step))} to go  {self._speed:,.0f} images/s'
        )
        self._pace.resume(step)

    def evaluate(self, step: int, state: TrainState, evaluate: Any) -> bool:
        """Evaluate raw and EMA weights; returns whether the error that selects is the lowest so far.

        An equal one counts as lower: of several steps, the best is the latest.
        """
        scalars, errors = {}, {}
        weights = {'': {'params': state.params, 'batch_stats': state.batch_stats}}
        if state.ema:
            weights['ema_'] = state.ema
        for prefix, variables in weights.items():
            for split, figures in evaluate(variables).items():
                scalars |= {f'{split}/{prefix}{name}': value for name, value in figures.items()}
                errors[f'{prefix}{split}_error'] = figures['error']
        self._write(step, scalars)
        self.history.append(Evaluation(step, errors))
        lowest = min(evaluation.selection_error for evaluation in self.history)
        return self.history[-1].selection_error == lowest

    def show_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Hand uint8 [H, W, 3] images to TensorBoard, by tag."""
        self._writing(lambda: self._log.write_images(step, images))

    def evaluated(self, step: int) -> bool:
        """Whether `step` is the last one that was evaluated."""
        return bool(self.history) and self.history[-1].step == step

    def save(self, step: int, state: TrainState) -> None:
        """Start to write a checkpoint.

        Raises:
          DivergedError: the state is no longer finite; then nothing is written.
        """
        if not all_finite(state):
            raise self._diverged('a parameter or statistic is not finite', step)
        record = {
            'history': [list(evaluation) for evaluation in self.history],
            'seconds': self.seconds,
            'rollbacks': self.rollbacks,
        } | self._identity
        error = self.history[-1].selection_error if self.evaluated(step) else None
        save_checkpoint(self._manager, state, record, step=step, error=error)

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        self._writing(lambda: self._log.write(step, scalars))

    def _writing(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise UserError(
                f'metrics.jsonl cannot be written ({error.strerror or error}); {self._last_saved()}: make '
                'room, and the same command goes on from it'
            ) from error

    def _last_saved(self) -> str:
        # One that is being written may yet fail.
        self._manager.wait_until_finished()
        saved = self._manager.latest_step()
        return 'nothing was saved yet' if saved is None else f'the last good checkpoint is of step {saved}'

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(
            f'{what} at step {step}; {self._last_saved()}',
            f'{NEW_RUN}, or go on at half the rate with --config.on_nonfinite=rollback',
            rollbacks=self.rollbacks,
        )
