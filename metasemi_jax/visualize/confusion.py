"""The confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metasemi_jax.visualize.style import Drawing, new_figure, shown_name

WITH_COUNTS = 20  # classes; the cells of more are too small for numbers
WITH_NAMES = 120
NAMED_CONFUSIONS = 5


def confusion_counts(labels: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """int [K, K]: how many images of each true class (row) were given each class (column).

    Args:
      labels: int [N], -1 where it is not known; those count nowhere.
      classes: int [N], the predicted ones.
    """
    known = labels >= 0
    cells = labels[known].astype(int) * num_classes + classes[known]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], *, name: str, split: str) -> Drawing:
    """Shares of each true class in percent as colours; the counts are written in where they can be read."""
    from matplotlib.colors import PowerNorm

    num_classes = len(counts)
    sizes = counts.sum(axis=1, keepdims=True)
    # A class without images gives 0/0, of which NumPy warns even if the result is masked.
    shares = 100 * counts / np.maximum(sizes, 1)
    side = float(np.clip(2.6 + 0.42 * num_classes, 4.5, 13))
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    # Gamma makes a confusion of 2% visible.
    image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 100), interpolation='nearest')
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label('share of the true class, %')
    bar.ax.set_yticklabels(['0', '1', '5', '10', '25', '50', '75', '100'])
    _name_classes(axes, class_names, side)
    axes.set(xlabel='predicted class', ylabel='true class')
    if num_classes <= WITH_COUNTS:
        _write_counts(axes, counts, shares)
    return Drawing('Confusion matrix', figure, _caption(counts, class_names, name=name, split=split))


def _name_classes(axes: Any, class_names: Sequence[str], side: float) -> None:
    num_classes = len(class_names)
    # Font size: the height of a class in points, less a margin.
    room = 72 * 0.8 * side / num_classes
    step = 1 if num_classes <= WITH_NAMES else -(-num_classes // 25)
    shown = range(0, num_classes, step)
    names = [shown_name(class_names[i], 16) for i in shown]
    size = float(np.clip(0.9 * room * step, 3.5, 10))
    axes.set_xticks(shown, names, fontsize=size, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(shown, names, fontsize=size)


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(
            column,
            row,
            f'{counts[row, column]:,}',
            ha='center',
            va='center',
            fontsize=9 if counts.max() < 1000 else 7,
            color='white' if shares[row, column] > 36 else 'black',
        )


def _caption(counts: np.ndarray, class_names: Sequence[str], *, name: str, split: str) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    written = 'numbers are images, empty cells none; ' if len(counts) <= WITH_COUNTS else ''
    sentences = [
        f'Confusion matrix of the {split} images: {name}. Rows are the true classes, columns the predicted '
        f'ones; {written}colours are shares of the row. {total - right:,} of {total:,} images are wrong '
        f'({100 * (total - right) / max(total, 1):.2f}%).'
    ]
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind='stable')[:NAMED_CONFUSIONS]
    pairs = [divmod(int(cell), len(counts)) for cell in order if wrong.flat[cell]]
    if pairs:
        listed = [f'{class_names[i]} → {class_names[j]} ({wrong[i, j]:,})' for i, j in pairs]
        sentences.append(f'Most often (true → predicted): {", ".join(listed)}.')
    return ' '.join(sentences)
