"""Training curves: losses, errors, learning rate, and the quality of targets of unlabeled images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from metasemi_jax.visualize.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    Drawing,
    new_figure,
    thousands,
    tidy,
)
from metasemi_jax.visualize.training_log import Series

FEW = 40  # points of a line that are marked
DECADE = 10  # less than this ratio is read better on a linear scale


class Line(NamedTuple):
    """One curve."""

    series: Series
    label: str
    colour: str
    style: Any = '-'  # as Matplotlib takes it


LOSSES = {
    'train/loss': ('total', BLACK, '-'),
    'train/classification_loss': ('classification', BLUE, '--'),
    'train/consistency_loss': ('consistency', RED, '-.'),
    'train/label_loss': ('labeled, in evaluation mode', GREEN, ':'),
    'train/extra_loss': ("the method's own", PURPLE, (0, (1, 1))),
}
ERRORS = {
    'test/error': ('test', BLUE, '-'),
    'test/ema_error': ('test, EMA weights', ORANGE, '--'),
    'validation/error': ('validation', GREEN, '-.'),
    'validation/ema_error': ('validation, EMA weights', PINK, ':'),
}
TARGETS = {'before': ('all', BLUE, '-')}
UPDATED = {'before': ('before the meta update', ORANGE, '--'), 'after': ('after it', BLUE, '-')}
KEPT = {'train/pseudo_label_accuracy_kept': ('of those kept', GREEN, '-.')}
SHARES = {
    'train/pseudo_label_kept': ('kept', GREEN, '-'),
    'train/pseudo_label_weight': ('mean weight', BLACK, ':'),
}


def draw_curves(series: dict[str, Series], name: str) -> Drawing | None:
    """Losses, errors in percent and the learning rate over the steps, as far as they were logged."""
    losses, errors = _lines(series, LOSSES), _lines(series, ERRORS)
    panels = [
        (losses, 'training loss', 'log'),
        (errors, f'{errors[0].label} error, %' if len(errors) == 1 else 'error, %', 'linear'),
        (_lines(series, {'train/lr': ('learning rate', BLACK, '-')}), 'learning rate', 'linear'),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return None
    figure = new_figure(4.3 * len(panels), 3.6)
    for axes, (lines, label, scale) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _draw_lines(axes, lines, label)
        values = [value for line in lines for value in line.series.values]
        if scale == 'log' and min(values) > 0 and max(values) > DECADE * min(values):
            axes.set_yscale('log')
        elif min(values) >= 0:
            axes.set_ylim(0, 1.05 * max(values) or 1)
    sentences = [f'Training curves: {name}.']
    if losses:
        sentences.append('Losses and learning rate are means over the steps since the one logged before.')
    if errors:
        sentences.append('Errors are of the weights at that step.')
    return Drawing('Training curves', figure, ' '.join(sentences))


def draw_pseudo_labels(series: dict[str, Series], name: str) -> Drawing | None:
    """How good the targets of the unlabeled images are, by what the method logs of them.

    Accuracy (where labels are known), of the kept ones too where the method drops some; its gain by the meta
    update where there is one; the share that is kept; entropy. None where nothing of this was logged.
    """
    updates = any(f'train/pseudo_label_{kind}_after' in series for kind in ('accuracy', 'entropy'))
    accuracy, entropy = (
        _lines(
            series,
            {
                f'train/pseudo_label_{kind}_{when}': look
                for when, look in (UPDATED if updates else TARGETS).items()
            },
        )
        for kind in ('accuracy', 'entropy')
    )
    gain = _gain([line._replace(series=_percent(line.series)) for line in accuracy])
    accuracy = [line._replace(series=_percent(line.series)) for line in accuracy + _lines(series, KEPT)]
    shares = [line._replace(series=_percent(line.series)) for line in _lines(series, SHARES)]
    if len(shares) == 2 and shares[0].series == shares[1].series:
        shares = shares[:1]  # Weights of 0 and 1: their mean is the share.
    panels = [
        (accuracy, 'accuracy of the pseudo-labels, %'),
        ([gain] if gain else [], 'gain by the update, percentage points'),
        (shares, 'pseudo-labels that are kept, %' if len(shares) == 1 else 'share, mean weight, %'),
        (entropy, 'entropy of the pseudo-labels, nats'),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return None
    figure = new_figure(4.3 * len(panels) if len(panels) > 1 else 6, 3.6)
    for axes, (lines, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_lines(axes, lines, label)
        if lines == [gain]:
            axes.axhline(0, color='0.6', linewidth=0.8, zorder=1)
        elif lines is shares:
            axes.set_ylim(0, 103)
    caption = _pseudo_label_caption(name, accuracy, shares, gain, updates=updates)
    return Drawing('Pseudo-labels', figure, caption)


def _pseudo_label_caption(
    name: str, accuracy: Sequence[Line], shares: Sequence[Line], gain: Line | None, *, updates: bool
) -> str:
    sentences = [f'Pseudo-labels of the unlabeled images in the batches of training: {name}.']
    sentences.append('Means over the steps since the one logged before.')
    if gain:
        steps, gains = gain.series
        up, down = (sum(sign * value > 0 for value in gains) for sign in (1, -1))
        sentences.append(
            f'The meta update raised the accuracy at {up} and lowered it at {down} of {len(steps)} points, '
            f'by {sum(gains) / len(gains):+.2f} percentage points in the mean.'
        )
    elif not updates:
        sentences.append('This run makes no meta update.')
    if shares and shares[0].label == 'kept':
        sentences.append(f'At the end {shares[0].series.values[-1]:.0f}% of them were kept to learn from.')
    if not accuracy:
        sentences.append('Their accuracy is not known: the unlabeled images have no labels.')
    return ' '.join(sentences)


def _lines(series: dict[str, Series], looks: dict[str, tuple[str, str, Any]]) -> list[Line]:
    return [
        Line(series[name], label, colour, style)
        for name, (label, colour, style) in looks.items()
        if name in series
    ]


def _percent(series: Series) -> Series:
    return Series(series.steps, [100 * value for value in series.values])


def _gain(accuracy: Sequence[Line]) -> Line | None:
    if len(accuracy) < 2:
        return None
    before, after = (dict(zip(*line.series, strict=True)) for line in accuracy)
    steps = [step for step in before if step in after]
    if not steps:
        return None
    return Line(Series(steps, [after[step] - before[step] for step in steps]), 'after - before', BLACK)


def _draw_lines(axes: Any, lines: Sequence[Line], label: str) -> None:
    for line in lines:
        marker = '.' if len(line.series.steps) <= FEW else ''
        axes.plot(
            *line.series,
            color=line.colour,
            linestyle=line.style,
            linewidth=1.5,
            marker=marker,
            markersize=4,
            label=line.label,
        )
    axes.set(xlabel='step', ylabel=label)
    thousands(axes.xaxis)
    tidy(axes, 'both')
    if len(lines) > 1:
        # Above the axes, where no curve runs.
        axes.legend(
            loc='lower left',
            bbox_to_anchor=(0, 1),
            ncols=2,
            frameon=False,
            fontsize='small',
            borderaxespad=0.2,
        )
