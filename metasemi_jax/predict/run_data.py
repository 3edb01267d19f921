"""The images of a run's splits, for the commands that look at what it has learnt."""

import copy
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.classifier import Classifier
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.identity import is_same_data
from metasemi_jax.data.splits import Split, split_positions
from metasemi_jax.errors import UserError
from metasemi_jax.training.experiment_data import load_data

SPLITS = ('test', 'validation', 'labeled', 'unlabeled')


class SplitImages(NamedTuple):
    """n images of an array of N."""

    images: Any  # uint8 [N, H, W, C]
    positions: np.ndarray  # int [n], of the split in `images`
    labels: np.ndarray  # int32 [n]; -1 where it is not known
    ids: np.ndarray  # str [n]


def load_run_data(classifier: Classifier, *, data_path: str = '', data_dir: str = '') -> Dataset:
    """The dataset that the run of `classifier` was trained on.

    Args:
      classifier: of `load_classifier`.
      data_path, data_dir: where the images are now, in the place of its `data.path` and `data.data_dir`.

    Raises:
      UserError: images that cannot be had, or are not those of the run any more.
    """
    config = copy.deepcopy(classifier.config)
    config.data.path = data_path or config.data.path
    config.data.data_dir = data_dir or config.data.data_dir
    try:
        dataset = load_data(config)
    except UserError as error:
        raise UserError(
            f'the images that {classifier.files.path} was trained on cannot be had: {error} (where they have '
            'moved, --data_path= or --data_dir= names the new place)'
        ) from error
    held_out = classifier.files.read_validation_ids()
    if not is_same_data(classifier.record.get('data_sha256'), dataset, held_out):
        raise UserError(
            f'the images have changed since {classifier.files.path} was begun: some were added, '
            'removed, renamed, relabeled or replaced; put the old ones back, or name files and folders, no '
            'split'
        )
    if dataset.image_shape != classifier.input_form.image_shape:
        raise UserError(
            f'{classifier.files.path} takes images of {classifier.input_form.image_shape}, its data are of '
            f'{dataset.image_shape} now; put the old ones back'
        )
    return dataset


def split_images(classifier: Classifier, dataset: Dataset, name: str) -> SplitImages:
    """The images of the split `name` of `SPLITS`, both training pools in the order of their ids.

    Raises:
      UserError: the run has no such images.
    """
    found = find_split(classifier, dataset, name)
    if found is None:
        raise UserError(
            f'{classifier.files.path} has no {name} images; choose another of {", ".join(SPLITS)}'
        )
    return found


def find_split(classifier: Classifier, dataset: Dataset, name: str) -> SplitImages | None:
    """`split_images`, or None where the run has no such images."""
    split = Split(classifier.files.read_labeled_ids() or [], classifier.files.read_validation_ids())
    if name == 'test':
        found = _whole(dataset.test_images, dataset.test_labels, dataset.test_ids, 'test')
    elif name == 'validation' and not split.validation:
        found = _whole(dataset.val_images, dataset.val_labels, dataset.val_ids, 'val')
    else:
        labeled, unlabeled = split_positions(dataset.train_ids, split.labeled, split.validation)
        held_out, _ = split_positions(dataset.train_ids, split.validation)
        positions = {'labeled': labeled, 'unlabeled': unlabeled, 'validation': held_out}[name]
        labels, ids = dataset.train_labels[positions], dataset.train_ids[positions]
        found = SplitImages(dataset.train_images, positions, labels, ids)
    return found if found is not None and len(found.positions) else None


def _whole(images: Any, labels: np.ndarray | None, ids: np.ndarray | None, prefix: str) -> SplitImages | None:
    if images is None:
        return None
    positions = np.arange(len(labels))
    if ids is None:
        ids = np.array([f'{prefix}_{i:06d}' for i in positions])
    return SplitImages(images, positions, labels, ids)
