"""The metrics that a run reports, and how each was chosen."""

import statistics
from typing import Any, NamedTuple

from metasemi_jax.errors import UserError

MEDIAN_OVER = 20
WEIGHT_PREFIXES = {'': 'raw weights', 'ema_': 'EMA weights'}
PROTOCOLS = {
    'test_error_last': 'after the last step',
    'test_error_median20': f'median of the last {MEDIAN_OVER} evaluations',
    'test_error_best_on_validation': 'at the step with the lowest validation error',
    'test_error_best': 'lowest of all; selected on the test set',
    'validation_error_last': 'after the last step',
    'validation_error_median20': f'median of the last {MEDIAN_OVER} evaluations',
    'validation_error_best': 'lowest of all; selected on the validation images',
}
# Name in results.json -> which weights, and the meaning.
METRICS = {
    prefix + protocol: (weights, meaning)
    for prefix, weights in WEIGHT_PREFIXES.items()
    for protocol, meaning in PROTOCOLS.items()
}


class Evaluation(NamedTuple):
    """Errors (percent) after `step` steps.

    `errors` holds 'test_error', 'validation_error' or both, whatever the run has images for, and the same
    with 'ema_' before it where EMA weights are kept.
    """

    step: int
    errors: dict[str, float]

    @property
    def selection_error(self) -> float:
        """Decides which checkpoint is the best: of raw weights, on validation images if there are any."""
        return self.errors['validation_error' if 'validation_error' in self.errors else 'test_error']


def summarize(history: list[Evaluation]) -> dict[str, Any]:
    """Errors in percent by protocol, for raw and EMA weights; at least one evaluation is needed.

    Each series of errors in `history` gives three metrics: SERIES_last, SERIES_median20, SERIES_best. Where
    both were evaluated, 'test_error_best_on_validation' is the test error at the step whose validation error
    was the lowest, the latest of several. `selected_on_test_set` names the metrics that looked at the test
    set to choose the moment: the paper's are of that kind, and flatter. `best_checkpoint` says which step
    the best checkpoint is of, and what it was chosen on.
    """
    names = [
        name for prefix in WEIGHT_PREFIXES for name in (f'{prefix}test_error', f'{prefix}validation_error')
    ]
    metrics: dict[str, Any] = {}
    for name in names:
        if name not in history[-1].errors:
            continue
        series = [evaluation.errors[name] for evaluation in history]
        metrics[f'{name}_last'] = series[-1]
        metrics[f'{name}_median20'] = statistics.median(series[-MEDIAN_OVER:])
        metrics[f'{name}_best'] = min(series)
    for prefix in WEIGHT_PREFIXES:
        if {f'{prefix}test_error', f'{prefix}validation_error'} <= history[-1].errors.keys():
            chosen = _latest_best(history, lambda e, prefix=prefix: e.errors[f'{prefix}validation_error'])
            metrics[f'{prefix}test_error_best_on_validation'] = chosen.errors[f'{prefix}test_error']
    metrics['selected_on_test_set'] = [name for name in metrics if name.endswith('test_error_best')]
    metrics['best_checkpoint'] = {
        'step': _latest_best(history, lambda evaluation: evaluation.selection_error).step,
        'selected_on': 'validation' if 'validation_error' in history[-1].errors else 'test',
    }
    return metrics


def check_results(results: dict[str, Any]) -> None:
    """Refuse what is not of the form of `results.json`: the metrics of `summarize`, the number of steps."""
    for name in METRICS:
        value = results.get(name, 0.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 100:
            raise UserError(f'{name}={value!r} must be a number of percent')
    if not {'test_error_last', 'validation_error_last'} & results.keys():
        raise UserError('it holds neither test_error_last nor validation_error_last')
    reported = results.get('reported_weights', 'raw')
    if reported not in ('raw', 'ema'):
        raise UserError(f'reported_weights={reported!r} must be raw or ema')
    steps = results.get('steps')
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise UserError(f'steps={steps!r} must be a number of steps')
    warned = results.get('warnings', [])
    if not isinstance(warned, list) or not all(map(_is_warning, warned)):
        raise UserError(f"warnings={warned!r} must be a list of a 'step' and a 'message' each")


def _is_warning(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get('step'), int)
        and isinstance(value.get('message'), str)
    )


def reported_weights(metrics: dict[str, Any], *, ema_decay: float, total_steps: int) -> str:
    """Which weights a run reports and its readers take: 'raw' or 'ema', those of the last step.

    Of both on validation images the better, the EMA of equals. Without validation images the EMA, if it has
    left the start behind: if it averages, over 1/(1 - ema_decay) steps, a tenth of the run at most.

    Args:
      metrics: what `summarize` returns.
      ema_decay: 0 where no EMA is kept.
      total_steps: steps of the whole run.
    """
    if not ema_decay:
        return 'raw'
    raw, ema = (metrics.get(f'{prefix}validation_error_last') for prefix in WEIGHT_PREFIXES)
    if raw is not None and ema is not None:
        return 'ema' if ema <= raw else 'raw'
    return 'ema' if total_steps * (1 - ema_decay) >= 10 else 'raw'


def _latest_best(history: list[Evaluation], error: Any) -> Evaluation:
    return min(reversed(history), key=error)


def table(metrics: dict[str, Any]) -> str:
    """The final table of the metrics of `summarize`."""
    lines = []
    for split in ('test', 'validation'):
        rows = [
            f'  {metrics[name]:>7.2f}%  {weights}, {meaning}'
            for name, (weights, meaning) in METRICS.items()
            if f'{split}_error' in name and name in metrics
        ]
        if rows:
            lines += [f'{split} error', *rows]
    if lines[0] != 'test error':
        lines[0] += ' (there is no test set)'
    if metrics.get('reported_weights') == 'ema':
        lines.append('predict, export and visualize take the EMA weights')
    return '\n'.join(lines)
