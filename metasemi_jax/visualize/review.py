"""The unlabeled images with their predictions, to be looked through: the most and the least certain ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasemi_jax.visualize.sheet import GAP, Cell, Shown, cell_height, draw_cell, new_sheet, percent
from metasemi_jax.visualize.style import Drawing, fitted_name

EACH = 6  # images of either end
CLASSES_A_SHEET = 10
SHEETS = 5
SIDE = 0.95  # inches of an image
LABEL = 1.5  # inches for the name of the class
MIDDLE = 0.35  # inches between the two ends


class ClassSample(NamedTuple):
    """The images that were given one class."""

    label: int
    count: int  # all of them
    mean: float  # of their probabilities
    most: np.ndarray  # int, positions among the predictions; the most certain first
    least: np.ndarray  # int, the least certain first; none of `most`


class Review(NamedTuple):
    """Contents of the sheets."""

    samples: list[ClassSample]  # positions in `shown`
    shown: Shown
    judged: int  # images that were classified
    total: int  # images that there are


def choose_samples(classes: np.ndarray, confidence: np.ndarray) -> list[ClassSample]:
    """For each class that occurs its most and its least certain images; the classes most in doubt first
    where they are more than the sheets hold, else in their order.

    Args:
      classes: int [N], the predicted ones.
      confidence: float [N], their probabilities.
    """
    samples = []
    for label in np.unique(classes):
        (members,) = np.nonzero(classes == label)
        order = members[np.argsort(-confidence[members], kind='stable')]
        most = order[: min(EACH, -(-len(order) // 2))]
        least = order[len(most) :][::-1][:EACH]
        samples.append(ClassSample(int(label), len(order), float(confidence[members].mean()), most, least))
    if len(samples) > SHEETS * CLASSES_A_SHEET:
        samples = sorted(samples, key=lambda sample: sample.mean)[: SHEETS * CLASSES_A_SHEET]
    return samples


def draw_review(review: Review, class_names: Sequence[str], *, name: str) -> list[Drawing]:
    """Sheets of `review`, a row for each class."""
    samples = review.samples
    pages = [samples[i : i + CLASSES_A_SHEET] for i in range(0, len(samples), CLASSES_A_SHEET)]
    return [
        _draw_page(
            page, review, class_names, name=name, number=f' {i + 1} of {len(pages)}' * (len(pages) > 1)
        )
        for i, page in enumerate(pages)
    ]


def _draw_page(
    page: Sequence[ClassSample], review: Review, class_names: Sequence[str], *, name: str, number: str
) -> Drawing:
    step_x, step_y, top = SIDE + GAP, cell_height(SIDE, 0), 0.4
    right = LABEL + EACH * step_x + MIDDLE
    axes = new_sheet(right + EACH * step_x, top + len(page) * step_y)
    for x, heading in ((LABEL, 'most certain'), (right, 'least certain')):
        axes.text(x + GAP / 2, 0.05, heading, fontsize=11, va='top')
    for row, sample in enumerate(page):
        y = top + row * step_y
        title = fitted_name(class_names[sample.label], LABEL - 0.3, 10)  # bold is wider
        axes.text(0.02, y + 0.1, title, fontsize=10, va='top', weight='bold')
        words = f'{sample.count:,} image{"s" * (sample.count > 1)}\nmean {percent(sample.mean)}'
        axes.text(0.02, y + 0.33, words, fontsize=8, va='top', color='0.3')
        for x, positions in ((LABEL, sample.most), (right, sample.least)):
            for column, i in enumerate(positions):
                cell = _cell(review.shown, int(i), sample.label, class_names)
                draw_cell(axes, cell, x + column * step_x + GAP / 2, y, SIDE)
    caption = _caption(review, class_names, name)
    return Drawing(f'Unlabeled images with their predictions{number}', axes.figure, caption)


def _cell(shown: Shown, i: int, predicted: int, class_names: Sequence[str]) -> Cell:
    label = int(shown.labels[i])
    wrong = label not in (-1, predicted)
    words = percent(shown.confidence[i]) + (f', is {class_names[label]}' if wrong else '')
    return Cell(shown.images[i], [], words, str(shown.ids[i]), wrong)


def _caption(review: Review, class_names: Sequence[str], name: str) -> str:
    sentences = [
        f'Unlabeled images by the class that the network gives them: {name}. Of each class the most certain '
        "ones and the least certain ones, with the class's probability and the image's name."
    ]
    if review.judged < review.total:
        sentences.append(
            f'Chosen among {review.judged:,} of the {review.total:,} unlabeled images, at random.'
        )
    absent = len(class_names) - len(review.samples)
    if len(review.samples) == SHEETS * CLASSES_A_SHEET and absent:
        sentences.append('Of all the classes those with the lowest mean probability are shown.')
    elif absent:
        sentences.append(f'{absent} of the {len(class_names)} classes were given to none.')
    if (review.shown.labels >= 0).any():
        sentences.append('An orange frame: the true class, which the network never sees, is another.')
    return ' '.join(sentences)
