"""Checksums that tell whether images are still those that a run began with."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from metasemi_jax.data.dataset import Dataset

VERSION = 'images-2'
PARTS = ('ids', 'training', 'judged')


def data_sha256(dataset: Dataset, held_out: Sequence[str]) -> str:
    """Checksums of a run's data, independent of order, place and decoding.

    One of the training ids, those held out and the classes; one of the labels and contents of the training
    images; one of ids, labels and contents of the validation and test images. Contents are what their source
    says of them (`Dataset.content`). No pixel is read.

    Returns:
      `VERSION` and three SHA-256 in hex, with colons between them.
    """
    return ':'.join([VERSION, *_sums(dataset, held_out).values()])


def changed_parts(recorded: str | None, dataset: Dataset, held_out: Sequence[str]) -> set[str]:
    """Which of `PARTS` have changed since a run, maybe of an earlier version, `recorded` its sums.

    None is a run that has recorded nothing yet. Earlier versions recorded the sum 'ids' alone.
    """
    if recorded is None:
        return set()
    version, *before = recorded.split(':')
    if version != VERSION:
        return set() if recorded == _first_version(dataset, held_out) else {'ids'}
    now = _sums(dataset, held_out)
    return {part for part, earlier in zip(PARTS, before, strict=True) if earlier != now[part]}


def _sums(dataset: Dataset, held_out: Sequence[str]) -> dict[str, str]:
    training = [_labeled_ids(dataset.train_ids, dataset.train_labels), [dataset.content]]
    judged = [_labeled_ids(dataset.val_ids, dataset.val_labels)]
    judged += [_labeled_ids(dataset.test_ids, dataset.test_labels), [dataset.judged_content]]
    return {
        'ids': _first_version(dataset, held_out),
        'training': _sha256(training),
        'judged': _sha256(judged),
    }


def _first_version(dataset: Dataset, held_out: Sequence[str]) -> str:
    parts = (sorted(dataset.train_ids), sorted(held_out), dataset.class_names)
    return hashlib.sha256('\n\n'.join('\n'.join(part) for part in parts).encode()).hexdigest()


def _sha256(parts: Iterable[Iterable[str]]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        text = '\n'.join(part)
        # With its length, so that no two lists of parts make the same text.
        digest.update(f'{len(text)}\n{text}\n'.encode(errors='surrogateescape'))
    return digest.hexdigest()


def _labeled_ids(ids: np.ndarray | None, labels: np.ndarray | None) -> list[str]:
    if labels is None:
        return ['none']
    # Without ids the order tells the images apart.
    names = map(str, range(len(labels)) if ids is None or not len(ids) else ids.tolist())
    return sorted(f'{label} {name}' for name, label in zip(names, labels.tolist(), strict=True))
