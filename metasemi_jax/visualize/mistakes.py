"""The images that the network is most certain of, and wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasemi_jax.visualize.sheet import GAP, Cell, Shown, cell_height, draw_cell, new_sheet, percent
from metasemi_jax.visualize.style import Drawing

COLUMNS = 8
MOST = 40
SIDE = 1.5  # inches of an image


class Mistakes(NamedTuple):
    """Wrong predictions."""

    shown: Shown  # the most confident first
    total: int  # mistakes, drawn or not


def most_confident_mistakes(labels: np.ndarray, classes: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Positions of all wrong predictions, the most probable first; -1 among `labels` is not known."""
    (wrong,) = np.nonzero((labels >= 0) & (labels != classes))
    return wrong[np.argsort(-confidence[wrong], kind='stable')]


def draw_mistakes(mistakes: Mistakes, class_names: Sequence[str], *, name: str, split: str) -> Drawing:
    """A sheet of `mistakes`, each with its true and predicted class and its name, pixel by pixel."""
    shown, count = mistakes.shown, len(mistakes.shown.images)
    columns = min(COLUMNS, max(count, 4))
    step_x, step_y = SIDE + GAP, cell_height(SIDE, 2)
    axes = new_sheet(columns * step_x, -(-count // columns) * step_y)
    for i in range(count):
        row, column = divmod(i, columns)
        true, predicted = (class_names[k] for k in (shown.labels[i], shown.classes[i]))
        words = [f'true: {true}', f'net: {predicted}']
        cell = Cell(shown.images[i], words, percent(shown.confidence[i]), str(shown.ids[i]))
        draw_cell(axes, cell, column * step_x + GAP / 2, row * step_y, SIDE)
    which = f'The {count} most confidently wrong of {mistakes.total:,} wrongly classified'
    if count == mistakes.total:
        which = f'All {count} wrongly classified'
    caption = (
        f'{which} {split} images: {name}. Above each the true class and the '
        "network's, below it the probability of the latter and the image's name. Pixels as they are, not "
        'smoothed.'
    )
    return Drawing('Most confident mistakes', axes.figure, caption)
