"""Images in rows and columns, pixel by pixel, with a few words at each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.visualize.style import RED, fitted_name, new_figure, wrapped_name

GAP = 0.12  # inches between cells
NAME_POINTS = 6
NAME_LINES = 2
WORD_POINTS = 8
LINE = 1.25 / 72  # inches of a line for each point of its letters


class Shown(NamedTuple):
    """n images with their predictions."""

    images: np.ndarray  # uint8 [n, H, W, C]
    ids: np.ndarray  # str [n]
    labels: np.ndarray  # int [n], the true class, -1 where it is not known
    classes: np.ndarray  # int [n], the predicted one
    confidence: np.ndarray  # float [n], its probability


class Cell(NamedTuple):
    """An image and its words."""

    image: np.ndarray  # uint8 [H, W, C]
    above: Sequence[str]  # lines
    below: str
    name: str  # of the image, in small letters on two lines below all else
    wrong: bool = False  # in an orange frame


def new_sheet(width: float, height: float) -> Any:
    """Axes of inches that fill a figure, from the top left."""
    # One pair of axes: one for each image takes seconds to lay out.
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return axes


def cell_height(side: float, lines_above: int) -> float:
    """Inches that a cell takes, its image being `side` inches."""
    return side + LINE * (WORD_POINTS * (lines_above + 1) + NAME_LINES * NAME_POINTS) + 1.5 * GAP


def draw_cell(axes: Any, cell: Cell, x: float, y: float, side: float) -> None:
    """Draw `cell` with its upper left corner at (x, y), its image in a square of `side`."""
    for line in cell.above:
        text = fitted_name(line, side, WORD_POINTS)
        axes.text(x + side / 2, y, text, fontsize=WORD_POINTS, ha='center', va='top')
        y += LINE * WORD_POINTS
    y += GAP / 4
    height, width = (n * side / max(cell.image.shape[:2]) for n in cell.image.shape[:2])
    left, top = x + (side - width) / 2, y + (side - height) / 2
    # Grey images, and images of other than three channels.
    pixels = cell.image if cell.image.shape[-1] == 3 else cell.image[..., 0]
    style = {'cmap': 'gray', 'vmin': 0, 'vmax': 255, 'interpolation': 'nearest', 'aspect': 'auto'}
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(pixels, extent=(left, left + width, top + height, top), **style)
    axes.set(xlim=limits[0], ylim=limits[1])
    if cell.wrong:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=RED, linewidth=2.5))
    y += side + GAP / 4
    colour = RED if cell.wrong else 'black'
    text = fitted_name(cell.below, side, WORD_POINTS)
    axes.text(x + side / 2, y, text, fontsize=WORD_POINTS, ha='center', va='top', color=colour)
    y += LINE * WORD_POINTS
    text = wrapped_name(cell.name, side, NAME_POINTS, lines=NAME_LINES)
    axes.text(x + side / 2, y, text, fontsize=NAME_POINTS, ha='center', va='top', color='0.35')


def percent(probability: float) -> str:
    """One decimal, rounded down: 99.97% must not read as certain."""
    return f'{np.floor(1000 * float(probability)) / 10:.1f}%'
