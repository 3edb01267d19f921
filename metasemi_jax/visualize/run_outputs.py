"""Outputs of a run's network for the run's own images."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from metasemi_jax.classifier import Classifier, predict_batches
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import RunData, SplitImages, find_split, split_images
from metasemi_jax.visualize.embedding import sample_sizes
from metasemi_jax.visualize.sheet import Shown

MOST_UNLABELED = 10_000  # that are classified to be reviewed; more would take longer than all else
PROBABILITY_BYTES = 400_000_000


class Judged(NamedTuple):
    """The predictions for n images of a split."""

    images: SplitImages
    chosen: np.ndarray  # int [n], positions in the split
    classes: np.ndarray  # int [n]
    confidence: np.ndarray  # float32 [n], the probability of `classes`
    probs: np.ndarray | None  # float32 [n, K], where they were asked for

    @property
    def labels(self) -> np.ndarray:
        """int [n], -1 where it is not known."""
        return self.images.labels[self.chosen]

    def show(self, which: np.ndarray) -> Shown:
        """The images at `which` of the n."""
        places, images = self.chosen[which], self.images
        # One by one: indexing a memory-mapped array with all positions reads them in that order.
        pixels = np.stack([np.asarray(images.images[i]) for i in images.positions[places]])
        predicted = self.classes[which], self.confidence[which]
        return Shown(pixels, images.ids[places], images.labels[places], *predicted)


class Sample(NamedTuple):
    """m images of a pool, drawn at random, in the order of the pool."""

    name: str
    total: int  # images of the pool
    features: np.ndarray  # float32 [m, D]
    labels: np.ndarray  # int [m], -1 where it is not known
    classes: np.ndarray  # int [m], the predicted ones


class _Part(NamedTuple):
    """Images of a split for the network, and the outputs to keep."""

    images: SplitImages
    chosen: np.ndarray  # int, positions in the split
    kept: np.ndarray  # bool, of each of `chosen`: whether to keep its features
    with_probs: bool


def choose_judged(classifier: Classifier, data: RunData, split: str | None) -> str | None:
    """The split to judge the network by: `split`, or the test set, or without one the validation images.

    Returns:
      Its name, or None where there is nothing to judge by and no `split` was asked for.

    Raises:
      UserError: the run has no such images, or none of them has a label.
    """
    there = [name for name in ('test', 'validation') if find_split(data, name)]
    if not split and not there:
        return None
    name = split or there[0]
    if not (split_images(classifier, data, name).labels >= 0).any():
        raise UserError(
            f'{classifier.files.path}: the labels of its {name} images are not known; choose another --split'
        )
    return name


def run_network(
    classifier: Classifier,
    data: RunData,
    *,
    judged: str | None,
    num_points: int,
    seed: int,
    count: Callable[[int], None],
) -> tuple[dict[str, Judged], list[Sample]]:
    """Predictions for the splits that are looked at, and features of at most `num_points` images of them.

    Predictions are of the whole split `judged`, of the validation images, and of at most `MOST_UNLABELED`
    unlabeled ones. The features are of labeled, unlabeled and test (without them validation) images. Beside
    the results only a batch of images is held.

    Args:
      count: called once for each image, with the number of all.

    Returns:
      The predictions by split, and the samples for t-SNE.
    """
    third = 'test' if find_split(data, 'test') else 'validation'
    wanted = dict.fromkeys(('labeled', 'unlabeled', third, judged or third, 'validation'))
    splits = {name: images for name in wanted if (images := find_split(data, name))}
    rng = np.random.default_rng(seed)
    sizes = {n: len(splits[n].positions) for n in ('labeled', 'unlabeled', third) if n in splits}
    orders = {name: rng.permutation(size) for name, size in sizes.items()}
    drawn = {name: orders[name][:size] for name, size in sample_sizes(sizes, num_points).items()}
    parts = {}
    for name, images in splits.items():
        whole = np.arange(len(images.positions))
        if name == 'unlabeled' != judged:
            # The sample for t-SNE comes first, and is classified once.
            chosen = np.sort(orders[name][: max(MOST_UNLABELED, len(drawn[name]))])
        else:
            chosen = whole if name in (judged, 'validation') else np.sort(drawn[name])
        small = 4 * len(chosen) * len(classifier.class_names) <= PROBABILITY_BYTES
        with_probs = name in (judged, 'validation') and small
        parts[name] = _Part(images, chosen, np.isin(chosen, drawn.get(name, ())), with_probs)
    outputs = _predict(classifier, parts, count)
    samples = []
    for name in sizes:
        part, (classes, _, _, features) = parts[name], outputs[name]
        labels = part.images.labels[part.chosen[part.kept]]
        samples.append(Sample(name, sizes[name], features, labels, classes[part.kept]))
    found = {name: Judged(part.images, part.chosen, *outputs[name][:3]) for name, part in parts.items()}
    return found, samples


def _predict(
    classifier: Classifier, parts: dict[str, _Part], count: Callable[[int], None]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]]:
    """(classes, their probabilities, all probabilities where wanted, features of those kept) by part."""
    total = sum(len(part.chosen) for part in parts.values())
    size = max(1, min(classifier.config.eval_batch_size, total))
    pieces = [
        (name, slice(start, start + size))
        for name, part in parts.items()
        for start in range(0, len(part.chosen), size)
    ]

    def batches() -> Iterator[np.ndarray]:
        for name, piece in pieces:
            images, chosen, *_ = parts[name]
            yield np.asarray(images.images[images.positions[chosen[piece]]])

    found = {name: ([], [], [], []) for name in parts}
    outputs = predict_batches(classifier, batches(), batch_size=size, with_features=True)
    for (name, piece), output in zip(pieces, outputs, strict=True):
        classes, confidence, probs, features = found[name]
        classes.append(output.classes)
        confidence.append(output.probs.max(axis=-1))
        if parts[name].with_probs:
            probs.append(output.probs)
        features.append(np.asarray(output.features, np.float32)[parts[name].kept[piece]])
        for _ in output.classes:
            count(total)
    return {
        name: tuple(np.concatenate(arrays) if arrays else None for arrays in lists)
        for name, lists in found.items()
    }
