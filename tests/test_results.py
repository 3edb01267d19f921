import statistics

from metasemi_jax.results import Evaluation, summarize, table

ERRORS = [50.0, 4.0, *[10.0 + i for i in range(19)], 8.0]  # 22 evaluations
RAW = [Evaluation(100 * (i + 1), error, None) for i, error in enumerate(ERRORS)]
BOTH = [evaluation._replace(ema_error=evaluation.error / 2) for evaluation in RAW]


def test_by_hand():
    figures = summarize(RAW)
    # The last 20 leave out 50 and 4: 8, 10, 11, ... 28, whose middle two are 18 and 19.
    assert figures['test_error_last'] == 8
    assert figures['test_error_best'] == 4
    assert figures['test_error_median20'] == statistics.median([8, *range(10, 29)]) == 18.5
    assert figures['selected_on_test_set'] == ['test_error_best']
    assert not any(name.startswith('ema') for name in figures)


def test_ema_has_figures_of_its_own():
    figures = summarize(BOTH)
    assert figures['ema_test_error_last'] == 4
    assert figures['ema_test_error_best'] == 2
    assert figures['ema_test_error_median20'] == 9.25
    assert figures['test_error_last'] == 8
    assert figures['selected_on_test_set'] == ['test_error_best', 'ema_test_error_best']


def test_fewer_evaluations_than_the_median_asks_for():
    figures = summarize(RAW[:1])
    assert figures['test_error_last'] == figures['test_error_best'] == figures['test_error_median20'] == 50


def test_table():
    lines = table(summarize(BOTH)).splitlines()
    assert len(lines) == 7
    assert lines[1].split(maxsplit=1) == ['8.00%', 'raw weights, after the last step']
    assert lines[5].split(maxsplit=1) == ['9.25%', 'EMA weights, median of the last 20 evaluations']
    assert [line for line in lines if 'selected on the test set' in line] == [lines[3], lines[6]]
    assert len(table(summarize(RAW)).splitlines()) == 4
