"""Warnings about a run: pure functions of the metrics of its evaluations.

Each check compares medians of three evaluations, so that one odd batch says nothing, and leaves the first
fifth of the run alone, in which predictions and running statistics have yet to settle.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

SMOOTHED = 3  # evaluations to a median
SETTLED = 0.2  # share of the run before which nothing is judged


class Look(NamedTuple):
    """Metrics of one evaluation (see `probe`); the last three are NaN if there are no unlabeled images."""

    step: int
    train_loss: float  # mean since the last log
    labeled_loss: float
    batch_statistics_loss: float
    entropy: float = math.nan  # nats
    confidence: float = math.nan
    classes: float = math.nan


class Warned(NamedTuple):
    """Something that a healthy run does not do."""

    kind: str  # a key of `CHECKS`
    step: int
    message: str  # one line: what was seen, and what to change


def new_warnings(
    looks: Sequence[Look], *, known: Sequence[Warned], total_steps: int, num_classes: int
) -> list[Warned]:
    """Warnings that the last of `looks` adds to `known`; each kind is reported once.

    Args:
      looks: metrics of all evaluations so far, in their order.
    """
    settled = [look for look in looks if look.step >= SETTLED * total_steps]
    if len(settled) < SMOOTHED:
        return []
    told = {warned.kind for warned in known}
    found = {kind: check(settled, num_classes) for kind, check in CHECKS.items() if kind not in told}
    return [Warned(kind, looks[-1].step, message) for kind, message in found.items() if message]


def rising_labeled_loss(looks: Sequence[Look], num_classes: int) -> str | None:
    """The labeled loss in evaluation mode has risen far above its lowest while the training loss fell."""
    del num_classes
    labeled = _medians(looks, 'labeled_loss')
    lowest = min(range(len(labeled)), key=labeled.__getitem__)
    then, now = labeled[lowest], labeled[-1]
    trained = _medians(looks, 'train_loss')
    if not (now > 2 * then + 0.3 and trained[-1] < trained[lowest]):
        return None
    return (
        f'the loss on labeled images in evaluation mode rose from {then:.2f} to {now:.2f} while the training '
        'loss fell: the network learns the targets of the unlabeled images against the labels; lower '
        'optimizer.lr, or model.dropout_rate if it is not 0, or use the best checkpoint'
    )


def flattening(looks: Sequence[Look], num_classes: int) -> str | None:
    """The predictions on unlabeled images have become much less certain than they were."""
    del num_classes
    entropy, confidence = _medians(looks, 'entropy'), _medians(looks, 'confidence')
    surest = min(range(len(entropy)), key=entropy.__getitem__)
    if not (
        entropy[-1] > entropy[surest] + ENTROPY_RISE and confidence[-1] < confidence[surest] - CONFIDENCE_FALL
    ):
        return None
    return (
        f'the predictions on unlabeled images flatten: their mean entropy rose from {entropy[surest]:.2f} to '
        f'{entropy[-1]:.2f} nats, their confidence fell from {confidence[surest]:.2f} to '
        f'{confidence[-1]:.2f}; lower optimizer.lr, or model.dropout_rate if it is not 0, or use the best '
        'checkpoint'
    )


def collapse(looks: Sequence[Look], num_classes: int) -> str | None:
    """The predictions on unlabeled images have fallen into few classes."""
    classes = _medians(looks, 'classes')
    few = max(1.2, 0.3 * min(num_classes, PROBED_CLASSES))
    if not (classes[-1] < few or classes[-1] < max(classes) / 2):
        return None
    return (
        f'the predictions on unlabeled images fall into few classes: {classes[-1]:.1f} of {num_classes} '
        f'classes share them, at most {max(classes):.1f} before; unless your classes are so uneven, lower '
        'optimizer.lr or method.consistency_weight, or label more images'
    )


def unfit_statistics(looks: Sequence[Look], num_classes: int) -> str | None:
    """Labeled images have a far higher loss by the running statistics than by their own."""
    del num_classes
    running, own = _medians(looks, 'labeled_loss')[-1], _medians(looks, 'batch_statistics_loss')[-1]
    if not running > 1.5 * own + STATISTICS_GAP:
        return None
    return (
        f"BatchNorm's running statistics do not fit: the loss on labeled images is {running:.2f} with them, "
        f'{own:.2f} with the statistics of the images; lower optimizer.lr, or model.dropout_rate if it is '
        'not 0'
    )


CHECKS: dict[str, Callable[[Sequence[Look], int], str | None]] = {
    'rising_labeled_loss': rising_labeled_loss,
    'flattening': flattening,
    'collapse': collapse,
    'unfit_statistics': unfit_statistics,
}
# Nats; healthy runs of digits and MNIST stayed below 0.13, one that collapsed rose by 0.23.
ENTROPY_RISE = 0.2
CONFIDENCE_FALL = 0.06  # healthy runs: 0.03
STATISTICS_GAP = 0.3  # nats; healthy runs: at most 1.3 times as much, and 0.15 more
PROBED_CLASSES = 80  # most classes that the probed images can show


def _medians(looks: Sequence[Look], name: str) -> list[float]:
    """Running medians of `SMOOTHED` looks, one for each look from the third on."""
    values = [getattr(look, name) for look in looks]
    ends = range(SMOOTHED, len(values) + 1)
    return [statistics.median(values[end - SMOOTHED : end]) for end in ends]
