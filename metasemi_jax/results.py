"""The figures that a run reports, and how each was chosen."""

import statistics
from typing import Any, NamedTuple

MEDIAN_OVER = 20
WEIGHTS = {'': 'raw weights', 'ema_': 'EMA weights'}
PROTOCOLS = {
    'test_error_last': 'after the last step',
    'test_error_median20': f'median of the last {MEDIAN_OVER} evaluations',
    'test_error_best': 'lowest of all; selected on the test set',
}


class Evaluation(NamedTuple):
    """Test errors (percent) after `step` steps; `ema_error` is None where no EMA weights are kept."""

    step: int
    error: float
    ema_error: float | None


def summarize(history: list[Evaluation]) -> dict[str, Any]:
    """Test errors in percent by protocol, for raw and EMA weights; at least one evaluation is needed.

    `selected_on_test_set` names those that looked at the test set to choose the moment: the paper's figures
    are of that kind, and flatter.
    """
    series = {'': [evaluation.error for evaluation in history]}
    if history[-1].ema_error is not None:
        series['ema_'] = [evaluation.ema_error for evaluation in history]
    figures = {}
    for prefix, errors in series.items():
        figures[f'{prefix}test_error_last'] = errors[-1]
        figures[f'{prefix}test_error_median20'] = statistics.median(errors[-MEDIAN_OVER:])
        figures[f'{prefix}test_error_best'] = min(errors)
    figures['selected_on_test_set'] = [name for name in figures if name.endswith('best')]
    return figures


def table(figures: dict[str, Any]) -> str:
    """The final table, from `summarize`'s figures."""
    rows = [
        (f'{figures[prefix + protocol]:.2f}%', f'{weights}, {meaning}')
        for prefix, weights in WEIGHTS.items()
        for protocol, meaning in PROTOCOLS.items()
        if prefix + protocol in figures
    ]
    return '\n'.join(['test error', *(f'  {value:>8}  {meaning}' for value, meaning in rows)])
