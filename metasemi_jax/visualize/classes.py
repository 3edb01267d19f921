"""Images of each class, and the network's error on it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasemi_jax.visualize.style import BLUE, Drawing, new_figure, shown_name, tidy

SHOWN = 30  # classes; of more those with the highest error


class ClassCounts(NamedTuple):
    """Images by class, int [K] each."""

    labeled: np.ndarray  # trained on with their label
    predicted: np.ndarray | None  # unlabeled images that the network gives the class; None without any
    counts: np.ndarray | None  # [K, K] of the judged images, see `confusion_counts`


def class_rows(classes: ClassCounts, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """A line of a table for each class: number, name, and what is known of it."""
    rows = []
    for k, name in enumerate(class_names):
        cells = [str(k), name]
        if classes.counts is not None:
            total, right = int(classes.counts[k].sum()), int(classes.counts[k, k])
            error = f'{_error(total, right):.1f}%' if total else '–'
            cells += [error, f'{total - right:,} of {total:,}']
        cells.append(f'{classes.labeled[k]:,}')
        if classes.predicted is not None:
            cells.append(f'{classes.predicted[k]:,}')
        rows.append(tuple(cells))
    return rows


def class_header(classes: ClassCounts, split: str) -> tuple[str, ...]:
    """The headings of `class_rows`."""
    judged = [] if classes.counts is None else [f'{split} error', 'wrong']
    predicted = [] if classes.predicted is None else ['unlabeled, predicted']
    return ('#', 'class', *judged, 'labeled', *predicted)


def draw_class_errors(
    counts: np.ndarray, labeled: np.ndarray, class_names: Sequence[str], *, name: str, split: str
) -> Drawing:
    """Bars of the error of each class, the highest on top.

    Args:
      counts: int [K, K], see `confusion_counts`.
      labeled: int [K], the labeled training images.
    """
    totals, right = counts.sum(axis=1), np.diag(counts)
    errors = _error(totals, right)
    judged = [k for k in np.argsort(-errors, kind='stable') if totals[k]]
    shown = judged[:SHOWN]
    figure = new_figure(6.5, 0.9 + 0.27 * len(shown))
    axes = figure.add_subplot()
    places = range(len(shown))
    axes.barh(places, errors[shown], 0.72, color=BLUE)
    for place, k in zip(places, shown, strict=True):
        words = f' {totals[k] - right[k]:,} of {totals[k]:,}; {labeled[k]:,} labeled'
        axes.text(errors[k], place, words, fontsize=8, va='center')
    axes.set_yticks(places, [shown_name(class_names[k]) for k in shown], fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    # Room for the text beside the longest bar.
    axes.set_xlim(0, 1.45 * max(errors[shown].max(), 1))
    axes.set_xlabel(f'{split} error, %')
    tidy(axes, 'x')
    sentences = [
        f'Error of each class on the {split} images: {name}. Beside each bar the wrong images, all of the '
        'class, and how many labeled ones it was trained on.'
    ]
    if len(shown) < len(judged):
        sentences.append(f'The {len(shown)} highest of {len(judged):,} classes; the table has them all.')
    if len(judged) < len(counts):
        sentences.append(f'{len(counts) - len(judged):,} classes have no {split} image.')
    return Drawing('Error by class', figure, ' '.join(sentences))


def _error(total: np.ndarray, right: np.ndarray) -> np.ndarray:
    return 100 * (total - right) / np.maximum(total, 1)
