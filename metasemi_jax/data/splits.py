"""Which training images keep their label, and which of these are held out: drawn once, kept by id."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.errors import UserError, first_ten

VALIDATION_STREAM = 1


class Split(NamedTuple):
    """Ids of training images. All others are unlabeled, even where their label is known."""

    labeled: list[str]  # trained on with their label
    validation: list[str]  # labeled, held out: in neither pool


def draw_split(
    dataset: Dataset,
    *,
    num_labels: int,
    num_validation: int,
    seed: int,
    labeled_ids: Sequence[str] | None = None,
) -> Split:
    """Choose the labeled images, then those of them that are held out for validation.

    Args:
      dataset: labels of -1 are never chosen.
      num_labels: number of labeled images, the same of every class; 0 for all labels that are known.
      num_validation: number of labeled images held out. 0 holds none out, or a fifth where the
        dataset has neither a test nor a validation set.
      seed: seeds the draws of the labeled and of the validation images.
      labeled_ids: the labeled images, where they are not to be drawn.

    Raises:
      UserError: numbers that do not fit the data.
    """
    ids, labels = np.asarray(dataset.train_ids), dataset.train_labels
    if labeled_ids is not None:
        labeled = sorted(labeled_ids)
        check_labels(dataset, labeled)
        _check_classes(dataset, labeled)
    elif num_labels:
        labeled = class_balanced_split(labels, ids, num_labels, num_classes=dataset.num_classes, seed=seed)
    else:
        labeled = sorted(ids[labels >= 0].tolist())
    if dataset.val_images is not None:
        if num_validation:
            raise UserError(
                f'data.num_validation={num_validation}: these images come with a validation set; use 0'
            )
        return Split(labeled, [])
    positions, _ = split_positions(ids, labeled)
    count = num_validation
    if not count and dataset.test_images is None:
        count = max(1, round(len(labeled) / 5))
    if not count:
        return Split(labeled, [])
    held_out = _hold_out(labels[positions], ids[positions], count, seed=seed)
    return Split(sorted({*labeled} - {*held_out}), held_out)


def check_labels(dataset: Dataset, labeled: Sequence[str]) -> None:
    """Refuse labeled ids of images that have no label (any more), or that `dataset` does not hold."""
    positions, _ = split_positions(dataset.train_ids, labeled)
    without = positions[dataset.train_labels[positions] < 0]
    if len(without):
        raise UserError(
            f'the split names {len(without):,} images without a label, the first '
            f"'{dataset.train_ids[without[0]]}'; label them, or name others"
        )


def _check_classes(dataset: Dataset, labeled: Sequence[str]) -> None:
    """Refuse a split without any image of a class that could have one: the network would never predict it."""
    positions, _ = split_positions(dataset.train_ids, labeled)
    there = np.unique(dataset.train_labels[dataset.train_labels >= 0])
    lacking = np.setdiff1d(there, dataset.train_labels[positions])
    if len(lacking):
        raise UserError(
            f'the split names no image of {len(lacking):,} of {len(there):,} classes '
            f'({first_ten([dataset.class_names[k] for k in lacking])}); name one of each'
        )


def _hold_out(labels: np.ndarray, ids: np.ndarray, count: int, *, seed: int) -> list[str]:
    """Sorted ids of `count` of these images, of each class in proportion, leaving one of each at least."""
    sizes = np.bincount(labels)
    spare = np.maximum(sizes - 1, 0)
    if count > (most := spare.sum()):
        advice = f'use at most data.num_validation={most}' if most else 'label more images'
        raise UserError(
            f'{count} validation images cannot be held out of {len(labels)} labeled ones, since one of each '
            f'class must be left to train on; {advice}, or give test images'
        )
    wanted = count * sizes / len(labels)
    taken = np.minimum(np.floor(wanted).astype(int), spare)
    while taken.sum() < count:
        # What rounding left over goes where most is missing.
        taken[np.argmax(np.where(taken < spare, wanted - taken, -np.inf))] += 1
    rng = np.random.default_rng([seed, VALIDATION_STREAM])
    chosen = [rng.choice(np.sort(ids[labels == k]), n, replace=False) for k, n in enumerate(taken)]
    return sorted(np.concatenate(chosen).tolist())


def class_balanced_split(
    labels: np.ndarray, ids: Sequence[str], num_labels: int, *, num_classes: int, seed: int
) -> list[str]:
    """Ids of `num_labels` images, the same number of every class, sorted.

    The draw depends on the ids, not on the order in which the examples lie.

    Args:
      labels: int [N].
      ids: N unique strings.

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
            most = num_classes * np.bincount(labels[labels >= 0], minlength=num_classes).min()
            raise UserError(
                f'data.num_labels={num_labels} asks for {per_class} labels of class {label}, '
                f'which has {len(members)} images with one; use at most {most}'
            )
        chosen.extend(rng.choice(members, per_class, replace=False).tolist())
    return sorted(chosen)


def split_positions(
    ids: Sequence[str], labeled_ids: Sequence[str], held_out: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `ids` of the labeled pool and of the unlabeled pool, all others but those held out.

    Both are ordered by id, so that what is drawn from them does not depend on the stored order.

    Raises:
      UserError: a labeled id that `ids` does not hold, or one named twice.
    """
    position = {name: i for i, name in enumerate(ids)}
    missing = [name for name in (*labeled_ids, *held_out) if name not in position]
    if missing:
        raise UserError(
            f"the split names {len(missing)} images that the dataset does not hold, the first '{missing[0]}'"
            '; use the split of this dataset'
        )
    labeled, held_out = set(labeled_ids), set(held_out)
    if len(labeled) < len(labeled_ids) or labeled & held_out:
        raise UserError('the split names an image twice; name each labeled image once')
    outside = labeled | held_out
    in_order = sorted(position)
    kept = [position[name] for name in in_order if name in labeled]
    rest = [position[name] for name in in_order if name not in outside]
    return np.array(kept, np.int32), np.array(rest, np.int32)


def split_text(labeled_ids: Sequence[str]) -> str:
    """The text of `labeled_ids.txt`: one id a line."""
    return ''.join(f'{name}\n' for name in labeled_ids)


def split_sha256(labeled_ids: Sequence[str]) -> str:
    """SHA-256 of `split_text`, in hex."""
    return hashlib.sha256(split_text(labeled_ids).encode()).hexdigest()
