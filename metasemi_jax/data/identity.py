"""Are these still the images that a run began with?"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from metasemi_jax.data.dataset import Dataset

VERSION = 'images-2:'


def data_sha256(dataset: Dataset, held_out: Sequence[str]) -> str:
    """A sum of a run's data, the same in whatever order and place they lie, decoded or not.

    Ids and labels of the training, validation and test images, what their source says of their contents
    (`Dataset.content`), the classes in order, and the ids of the images held out. No pixel is read.

    Returns:
      `VERSION` and SHA-256 in hex.
    """
    digest = hashlib.sha256()
    for part in _parts(dataset, held_out):
        text = '\n'.join(part)
        # With its length, so that no two lists of parts make the same text.
        digest.update(f'{len(text)}\n{text}\n'.encode(errors='surrogateescape'))
    return VERSION + digest.hexdigest()


def is_same_data(recorded: str | None, dataset: Dataset, held_out: Sequence[str]) -> bool:
    """Whether a run that `recorded` a sum, maybe of an earlier version's, has the data `dataset`.

    None is a run that has recorded nothing yet. Earlier versions summed up the training ids, those held out
    and the classes alone.
    """
    if recorded is None:
        return True
    if recorded.startswith(VERSION):
        return recorded == data_sha256(dataset, held_out)
    return recorded == _first_version(dataset, held_out)


def _first_version(dataset: Dataset, held_out: Sequence[str]) -> str:
    parts = (sorted(dataset.train_ids), sorted(held_out), dataset.class_names)
    return hashlib.sha256('\n\n'.join('\n'.join(part) for part in parts).encode()).hexdigest()


def _parts(dataset: Dataset, held_out: Sequence[str]) -> Iterable[Iterable[str]]:
    yield _labeled_ids(dataset.train_ids, dataset.train_labels)
    yield _labeled_ids(dataset.val_ids, dataset.val_labels)
    yield _labeled_ids(dataset.test_ids, dataset.test_labels)
    yield [dataset.content]
    yield dataset.class_names
    yield sorted(held_out)


def _labeled_ids(ids: np.ndarray | None, labels: np.ndarray | None) -> list[str]:
    if labels is None:
        return ['none']
    # Without ids the order tells the images apart.
    names = map(str, range(len(labels)) if ids is None or not len(ids) else ids.tolist())
    return sorted(f'{label} {name}' for name, label in zip(names, labels.tolist(), strict=True))
