"""The images of a run's splits, for the commands that look at what it has learnt."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.classifier import Classifier
from metasemi_jax.config.form import with_fields
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.identity import changed_parts
from metasemi_jax.data.sources.registry import OWN_IMAGES
from metasemi_jax.data.splits import split_positions
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.training.experiment_data import load_data

RUN_SPLITS = ('test', 'validation', 'labeled', 'unlabeled')


class RunData(NamedTuple):
    """The images of a run as they are now."""

    dataset: Dataset
    labeled: np.ndarray  # int, positions in the training images; the labeled ones of the run
    unlabeled: np.ndarray
    held_out: np.ndarray
    changes: str = ''  # what was moved, added or removed since, one line for people; '' for nothing


class SplitImages(NamedTuple):
    """n images of an array of N."""

    images: Any  # uint8 [N, H, W, C]
    positions: np.ndarray  # int [n], of the split in `images`
    labels: np.ndarray  # int32 [n]; -1 where it is not known
    ids: np.ndarray  # str [n]


def load_run_data(
    classifier: Classifier, *, data_path: str = '', data_dir: str = '', manual_dir: str = ''
) -> RunData:
    """The data that the run of `classifier` was trained on.

    Files may have been moved, added or removed since, as when unlabeled images were reviewed into labeled/:
    then the splits hold those that are left, and `changes` says so.

    Args:
      data_path, data_dir, manual_dir: folders of the images today, instead of the run's `data.path`,
        `data.data_dir` and `data.manual_dir`.

    Raises:
      UserError: images that cannot be had, or are not those of the run any more.
    """
    classifier.files.read_split(classifier.record.get('split_sha256'))
    moved = {'data.path': data_path, 'data.data_dir': data_dir, 'data.manual_dir': manual_dir}
    config = with_fields(classifier.config, {name: place for name, place in moved.items() if place})
    advice = 'where they have moved, --data_path=, --data_dir= or --manual_dir= names the new place'
    what = f'the images that {classifier.files.path} was trained on cannot be had'
    with as_user_error(UserError, lambda error: f'{what}: {error} ({advice})'):
        dataset = load_data(config)
    if dataset.image_shape != classifier.input_spec.image_shape:
        raise UserError(
            f'{classifier.files.path} takes images of {classifier.input_spec.image_shape}, its data are of '
            f'{dataset.image_shape} now; put the old ones back'
        )
    return _run_data(classifier, config, dataset)


def _run_data(classifier: Classifier, config: Any, dataset: Dataset) -> RunData:
    files = classifier.files
    labeled, held_out = files.read_labeled_ids() or [], files.read_validation_ids()
    changed = changed_parts(classifier.record.get('data_sha256'), dataset, held_out)
    if not changed:
        return _of_ids(dataset, labeled, held_out)
    there = {*dataset.train_ids.tolist()}
    kept, kept_held_out = ([name for name in ids if name in there] for ids in (labeled, held_out))
    # A position says nothing of an image once others were added: only the names of files do. And where the
    # names are the same, an image was replaced or has another label.
    by_name = config.data.name == OWN_IMAGES and Path(config.data.path).suffix != '.npz'
    reviewed = by_name and 'ids' in changed and 'judged' not in changed
    if not (reviewed and kept and dataset.class_names == classifier.class_names):
        raise UserError(
            f'the images have changed since {files.path} was begun: some were added, removed, renamed, '
            'relabeled or replaced; put the old ones back, or name files and folders instead of a split'
        )
    data = _of_ids(dataset, kept, kept_held_out)
    new = np.zeros(len(data.unlabeled), bool)
    if not (config.data.num_labels or config.data.split_file):
        # The run had every label that there was: what else has one was given it since.
        new = dataset.train_labels[data.unlabeled] >= 0
    changes = [f'{count} labeled images are new, and left out' for count in [int(new.sum())] if count]
    for kind, before, now in (('labeled', labeled, kept), ('validation', held_out, kept_held_out)):
        if len(now) < len(before):
            changes.append(f'{len(before) - len(now)} of its {len(before)} {kind} images are gone')
    what = '; '.join(changes) or 'unlabeled ones were added, removed or renamed'
    what = f'the images have changed since {files.path} was begun: {what}'
    return data._replace(
        unlabeled=data.unlabeled[~new], changes=f'{what}; its splits are what is left of them'
    )


def _of_ids(dataset: Dataset, labeled: list[str], held_out: list[str]) -> RunData:
    positions, unlabeled = split_positions(dataset.train_ids, labeled, held_out)
    return RunData(dataset, positions, unlabeled, split_positions(dataset.train_ids, held_out)[0])


def split_images(classifier: Classifier, data: RunData, name: str) -> SplitImages:
    """The images of the split `name` of `RUN_SPLITS`, both training pools in the order of their ids.

    Raises:
      UserError: the run has no such images.
    """
    found = find_split(data, name)
    if found is None:
        raise UserError(
            f'{classifier.files.path} has no {name} images; choose another of {", ".join(RUN_SPLITS)}'
        )
    return found


def find_split(data: RunData, name: str) -> SplitImages | None:
    """`split_images`, or None where the run has no such images."""
    dataset = data.dataset
    if name == 'test':
        found = _whole(dataset.test_images, dataset.test_labels, dataset.test_ids, 'test')
    elif name == 'validation' and not len(data.held_out):
        found = _whole(dataset.val_images, dataset.val_labels, dataset.val_ids, 'val')
    else:
        positions = {'labeled': data.labeled, 'unlabeled': data.unlabeled, 'validation': data.held_out}[name]
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
