import statistics

import pytest

from metasemi_jax.results import Evaluation, reported_weights, summarize, table

ERRORS = [50.0, 4.0, *[10.0 + i for i in range(19)], 8.0]  # 22 evaluations
RAW = [Evaluation(100 * (i + 1), {'test_error': error}) for i, error in enumerate(ERRORS)]
BOTH = [Evaluation(step, errors | {'ema_test_error': errors['test_error'] / 2}) for step, errors in RAW]


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


# Step: validation error, test error. The lowest validation error comes twice.
TWO_SPLITS = [
    Evaluation(
        step,
        {
            'validation_error': validation,
            'test_error': test,
            'ema_validation_error': validation + step,
            'ema_test_error': test + 1,
        },
    )
    for step, validation, test in ((1, 9.0, 3.0), (2, 4.0, 8.0), (3, 4.0, 7.0), (4, 6.0, 5.0))
]


def test_the_test_error_at_the_best_validation_error():
    figures = summarize(TWO_SPLITS)
    assert figures['validation_error_last'] == 6
    assert figures['validation_error_best'] == 4
    assert figures['test_error_best_on_validation'] == 7  # of steps 2 and 3, the latest
    assert figures['ema_test_error_best_on_validation'] == 9  # 10, 6, 7, 10: step 2
    assert figures['test_error_last'] == 5
    assert figures['test_error_best'] == 3
    assert figures['selected_on_test_set'] == ['test_error_best', 'ema_test_error_best']
    assert figures['best_checkpoint'] == {'step': 3, 'selected_on': 'validation'}
    lines = table(figures).splitlines()
    assert lines[0] == 'test error'
    assert lines[9] == 'validation error'
    assert '   7.00%  raw weights, at the step with the lowest validation error' in lines[3]


def test_without_a_test_set():
    history = [
        Evaluation(step, {'validation_error': errors['validation_error']}) for step, errors in TWO_SPLITS
    ]
    figures = summarize(history)
    assert not any('test_error' in name for name in figures)
    assert figures['selected_on_test_set'] == []
    assert figures['best_checkpoint'] == {'step': 3, 'selected_on': 'validation'}
    lines = table(figures).splitlines()
    assert lines[0] == 'validation error (there is no test set)'
    assert len(lines) == 4


def test_the_best_checkpoint_without_validation_is_of_the_test_set():
    assert summarize(RAW)['best_checkpoint'] == {'step': 200, 'selected_on': 'test'}


@pytest.mark.parametrize(
    ('figures', 'ema_decay', 'total_steps', 'expected'),
    [
        ({}, 0.0, 1000, 'raw'),
        ({}, 0.99, 1000, 'ema'),  # averages over 100 steps
        ({}, 0.999, 1000, 'raw'),  # over all of them
        ({'validation_error_last': 3.0, 'ema_validation_error_last': 2.0}, 0.999, 1000, 'ema'),
        ({'validation_error_last': 2.0, 'ema_validation_error_last': 2.0}, 0.999, 1000, 'ema'),
        ({'validation_error_last': 2.0, 'ema_validation_error_last': 3.0}, 0.99, 1000, 'raw'),
        (
            {'test_error_last': 2.0, 'ema_test_error_last': 3.0},
            0.99,
            1000,
            'ema',
        ),  # not chosen on test images
    ],
)
def test_reported_weights(figures, ema_decay, total_steps, expected):
    assert reported_weights(figures, ema_decay=ema_decay, total_steps=total_steps) == expected


def test_table_names_the_ema_where_it_is_reported():
    figures = summarize(BOTH)
    assert table(figures | {'reported_weights': 'raw'}) == table(figures)
    assert 'EMA weights' in table(figures | {'reported_weights': 'ema'}).splitlines()[-1]
