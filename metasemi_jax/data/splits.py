"""Which training images keep their label: drawn once, kept as a list of ids."""

import hashlib
from collections.abc import Sequence

import numpy as np

from metasemi_jax.errors import UserError


def class_balanced_split(
    labels: np.ndarray, ids: Sequence[str], num_labels: int, *, num_classes: int, seed: int
) -> list[str]:
    """Ids of `num_labels` images, the same number of every class, sorted.

    The draw depends on the ids, not on the order in which the examples lie.

    Args:
      labels: int [N].
      ids: N unique strings.
      num_labels: how many images keep their label.
      num_classes: K.
      seed: of the draw.

    Raises:
      UserError: a number that the classes cannot share evenly, or more than a class holds.
    """
    if num_labels % num_classes:
        below = num_labels - num_labels % num_classes
        nearest = f'{below} or {below + num_classes}' if below else f'{num_classes}'
        raise UserError(
            f'data.num_labels={num_labels} cannot be shared evenly by {num_classes} classes, and a '
            f'class-balanced split takes the same number of every class; use {nearest}'
        )
    per_class = num_labels // num_classes
    rng = np.random.default_rng(seed)
    ids = np.asarray(ids)
    chosen = []
    for label in range(num_classes):
        members = np.sort(ids[labels == label])
        if len(members) < per_class:
            raise UserError(
                f'data.num_labels={num_labels} asks for {per_class} labels of class {label}, '
                f'which has {len(members)} images; use at most {_most_labels(labels, num_classes)}'
            )
        chosen.extend(rng.choice(members, per_class, replace=False).tolist())
    return sorted(chosen)


def split_positions(ids: Sequence[str], labeled_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `ids` of the labeled pool and of all the others, the unlabeled pool.

    Both are ordered by id, so that what is drawn from them does not depend on the stored order.

    Raises:
      UserError: a labeled id that `ids` does not hold, or one named twice.
    """
    position = {name: i for i, name in enumerate(ids)}
    missing = [name for name in labeled_ids if name not in position]
    if missing:
        raise UserError(
            f"the split names {len(missing)} images that the dataset does not hold, the first '{missing[0]}'"
            '; use the split of this dataset'
        )
    labeled = set(labeled_ids)
    if len(labeled) < len(labeled_ids):
        raise UserError('the split names an image twice; name each labeled image once')
    in_order = sorted(position)
    kept = [position[name] for name in in_order if name in labeled]
    rest = [position[name] for name in in_order if name not in labeled]
    return np.array(kept, np.int32), np.array(rest, np.int32)


def split_text(labeled_ids: Sequence[str]) -> str:
    """The artifact: one id a line."""
    return ''.join(f'{name}\n' for name in labeled_ids)


def split_sha256(labeled_ids: Sequence[str]) -> str:
    """SHA-256 of the artifact, in hex."""
    return hashlib.sha256(split_text(labeled_ids).encode()).hexdigest()


def _most_labels(labels: np.ndarray, num_classes: int) -> int:
    return num_classes * int(np.bincount(labels, minlength=num_classes).min())
