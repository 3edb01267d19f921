"""The images that the network is most certain of, and wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasemi_jax.visualize.style import Drawing, new_figure, shown_name

COLUMNS = 8
MOST = 40


class Mistakes(NamedTuple):
    """n images, the most confident first."""

    images: np.ndarray  # uint8 [n, H, W, C]
    ids: np.ndarray  # str [n]
    labels: np.ndarray  # int [n], the true class
    classes: np.ndarray  # int [n], the predicted one
    confidence: np.ndarray  # float [n], its probability
    total: int  # mistakes, drawn or not


def most_confident_mistakes(labels: np.ndarray, classes: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Positions of all wrong predictions, the most probable first; -1 among `labels` is not known."""
    (wrong,) = np.nonzero((labels >= 0) & (labels != classes))
    return wrong[np.argsort(-confidence[wrong], kind='stable')]


def draw_mistakes(mistakes: Mistakes, class_names: Sequence[str], *, name: str, split: str) -> Drawing:
    """A sheet of `mistakes`, each with its true and predicted class and its name, pixel by pixel."""
    count = len(mistakes.images)
    columns = min(COLUMNS, max(count, 4))
    rows = -(-count // columns)
    figure = new_figure(1.6 * columns, 2.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, axes in enumerate(grid[:count]):
        pixels = mistakes.images[i]
        # Grey, or what has no colours that a screen knows.
        pixels = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
        axes.imshow(pixels, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
        true, predicted = (shown_name(class_names[k], 18) for k in (mistakes.labels[i], mistakes.classes[i]))
        axes.set_title(
            f'true: {true}\nnet: {predicted}, {_percent(float(mistakes.confidence[i]))}', fontsize=8, pad=3
        )
        axes.text(
            0.5,
            -0.03,
            shown_name(str(mistakes.ids[i]), 30),
            transform=axes.transAxes,
            fontsize=6,
            ha='center',
            va='top',
        )
    which = f'The {count} most confidently wrong of {mistakes.total:,} wrongly classified'
    if count == mistakes.total:
        which = f'All {count} wrongly classified'
    caption = (
        f'{which} {split} images: {name}. Above each the true class, and the '
        "network's with its probability; below it the image's name. Pixels as they are, not smoothed."
    )
    return Drawing('Most confident mistakes', figure, caption)


def _percent(probability: float) -> str:
    # 99.97% must not read as certain.
    return f'{np.floor(1000 * probability) / 10:.1f}%'
