"""From the labels of a caller to classes 0 to K - 1, and -1 where there is no label."""

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

UNLABELED = -1


def encode_labels(y: np.ndarray, unlabeled_label: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes, sorted, and int32 [N]: which of them each label is, -1 where it is `unlabeled_label`.

    Args:
      y: labels [N], numbers or texts.
      unlabeled_label: what marks an example without a label; None: there is none.

    Raises:
      ValueError: labels that are no classes, fewer than two classes.
    """
    labeled = ~is_unlabeled(y, unlabeled_label)
    labels = y[labeled]
    if not len(labels):
        raise ValueError(
            f'no sample is labeled: all {len(y)} of y are unlabeled_label={unlabeled_label!r}; training '
            'needs labeled samples of two classes or more'
        )
    if labels.dtype == object:
        if len({isinstance(label, str) for label in labels}) > 1:
            raise ValueError(
                'y mixes numbers and texts; let its labels be all numbers or all texts, and name the one '
                "that means 'not labeled', as unlabeled_label='?'"
            )
        # NumPy's own type for them: scikit-learn takes numbers that are objects for an unknown type.
        labels = np.array(labels.tolist())
    check_classification_targets(labels)
    classes, encoded = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f'the labeled samples are of 1 class, {classes.tolist()[0]!r}; training needs labeled '
            'samples of two classes or more'
        )
    which = np.full(len(y), UNLABELED, np.int32)
    which[labeled] = encoded
    return classes, which


def is_unlabeled(y: np.ndarray, unlabeled_label: Any) -> np.ndarray:
    """bool [N]: which of the labels `y` is `unlabeled_label`."""
    if unlabeled_label is None:
        return np.zeros(len(y), bool)
    # NumPy turns all labels into strings if some are strings.
    mark = str(unlabeled_label) if y.dtype.kind == 'U' else unlabeled_label
    return np.array(y == mark, bool).reshape(len(y))
