"""What a run's network makes of the run's own images: features of some, predictions of a split."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from metasemi_jax.classifier import Classifier, predict_batches
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import SplitImages, find_split, split_images
from metasemi_jax.visualize.embedding import sample_sizes


class Judged(NamedTuple):
    """The predictions for a split of n images."""

    name: str
    images: SplitImages
    classes: np.ndarray  # int [n]
    confidence: np.ndarray  # float32 [n], the probability of `classes`


class Sample(NamedTuple):
    """m images of a pool, drawn at random, in the order of the pool."""

    name: str
    total: int  # images of the pool
    features: np.ndarray  # float32 [m, D]
    labels: np.ndarray  # int [m], -1 where it is not known
    classes: np.ndarray  # int [m], the predicted ones


class _Part(NamedTuple):
    """Images of a split to be fed to the network, and of which of them to keep the features."""

    images: SplitImages
    chosen: np.ndarray  # int, positions in the split
    kept: np.ndarray  # bool, of each of `chosen`


def choose_judged(classifier: Classifier, dataset: Dataset, split: str | None) -> str:
    """The split to judge the network by: `split`, or the test set, or without one the validation images.

    Raises:
      UserError: the run has no such images, or none of them has a label.
    """
    name = split or ('test' if find_split(classifier, dataset, 'test') else 'validation')
    if not (split_images(classifier, dataset, name).labels >= 0).any():
        raise UserError(
            f'{classifier.files.path}: the labels of its {name} images are not known; choose another --split'
        )
    return name


def run_network(
    classifier: Classifier,
    dataset: Dataset,
    *,
    judged: str,
    num_points: int,
    seed: int,
    count: Callable[[int], None],
) -> tuple[Judged, list[Sample]]:
    """Predictions for the whole split `judged`, and features of at most `num_points` images of all pools.

    The pools are the labeled, the unlabeled and the test (without them the validation) images. Beside the
    results only a batch of images is held.

    Args:
      count: called once for each image, with the number of all.
    """
    third = 'test' if find_split(classifier, dataset, 'test') else 'validation'
    pools = {name: find_split(classifier, dataset, name) for name in ('labeled', 'unlabeled', third)}
    pools = {name: images for name, images in pools.items() if images}
    rng = np.random.default_rng(seed)
    drawn = {}
    sizes = {name: len(images.positions) for name, images in pools.items()}
    for name, size in sample_sizes(sizes, num_points).items():
        drawn[name] = np.sort(rng.permutation(sizes[name])[:size])
    parts = {name: _Part(pools[name], chosen, np.ones(len(chosen), bool)) for name, chosen in drawn.items()}
    whole = split_images(classifier, dataset, judged)
    every = np.arange(len(whole.positions))
    parts[judged] = _Part(whole, every, np.isin(every, drawn.get(judged, ())))
    classes, confidence, features = _predict(classifier, parts, count)
    samples = []
    for name, chosen in drawn.items():
        kept = classes[name][parts[name].kept]
        samples.append(Sample(name, sizes[name], features[name], pools[name].labels[chosen], kept))
    return Judged(judged, whole, classes[judged], confidence[judged]), samples


def _predict(
    classifier: Classifier, parts: dict[str, _Part], count: Callable[[int], None]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Classes and their probabilities of all chosen images, features of those kept, by part."""
    total = sum(len(part.chosen) for part in parts.values())
    size = max(1, min(classifier.config.eval_batch_size, total))
    pieces = [
        (name, slice(start, start + size))
        for name, part in parts.items()
        for start in range(0, len(part.chosen), size)
    ]

    def batches() -> Iterator[np.ndarray]:
        for name, piece in pieces:
            images, chosen, _ = parts[name]
            yield np.asarray(images.images[images.positions[chosen[piece]]])

    classes, confidence, features = ({name: [] for name in parts} for _ in range(3))
    outputs = predict_batches(classifier, batches(), batch_size=size, with_features=True)
    for (name, piece), output in zip(pieces, outputs, strict=True):
        classes[name].append(output.classes)
        confidence[name].append(output.probs.max(axis=-1))
        features[name].append(np.asarray(output.features, np.float32)[parts[name].kept[piece]])
        for _ in output.classes:
            count(total)
    return tuple(
        {name: np.concatenate(arrays) for name, arrays in found.items() if arrays}
        for found in (classes, confidence, features)
    )
