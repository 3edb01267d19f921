"""Gathers the contents of a run's plots while its images are in memory."""

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.classifier import Classifier
from metasemi_jax.config.form import flatten
from metasemi_jax.predict.run_data import RunData, find_split, load_run_data
from metasemi_jax.progress import ImageCounter, ProgressLine, say
from metasemi_jax.visualize.calibration import (
    FEWEST,
    Confidence,
    Reliability,
    Rescaled,
    fit_temperature,
    rescale,
)
from metasemi_jax.visualize.classes import ClassCounts
from metasemi_jax.visualize.confusion import confusion_counts
from metasemi_jax.visualize.embedding import embed
from metasemi_jax.visualize.mistakes import MOST, Mistakes, most_confident_mistakes
from metasemi_jax.visualize.review import Review, choose_samples
from metasemi_jax.visualize.run_outputs import Judged, Sample, choose_judged, run_network
from metasemi_jax.visualize.training_log import TrainingLog, read_training_log
from metasemi_jax.visualize.tsne import EmbeddedPool


class Run(NamedTuple):
    """Contents of the plots of a run, without its images."""

    classifier: Classifier
    fields: dict[str, Any]  # of its config, flat
    results: dict[str, Any] | None  # of a finished run
    log: TrainingLog
    saved: datetime  # when the results, or else its last checkpoint, were written
    changes: str  # of its images since
    sizes: dict[str, int]  # images by split
    judged: str | None  # split
    classes: ClassCounts
    mistakes: Mistakes | None
    review: Review | None
    reliability: Reliability | None
    pools: list[EmbeddedPool]


def look(
    classifier: Classifier,
    split: str | None,
    *,
    num_points: int,
    seed: int,
    **places: str,
) -> Run:
    """Run the network over the run's images and keep what is drawn.

    Args:
      split: images to judge by; None for the test images, or without any the validation images.
      num_points: largest number of images in t-SNE.
      seed: seeds the choice of those images, and t-SNE.
      places: where the images lie now, as for `load_run_data`.

    Raises:
      UserError: images that cannot be had, or a `split` that the run does not have.
    """
    data = load_run_data(classifier, **places)
    if data.changes:
        say(data.changes)
    judged = choose_judged(classifier, data, split)
    with contextlib.closing(ProgressLine()) as progress:
        count = ImageCounter(progress, 'classified')
        found, samples = run_network(
            classifier, data, judged=judged, num_points=num_points, seed=seed, count=count
        )
    log = read_training_log(classifier.files.metrics)
    if log.num_damaged:
        say(f'{classifier.files.metrics}: {log.num_damaged} damaged lines skipped')
    splits = {name: find_split(data, name) for name in ('labeled', 'unlabeled', 'validation', 'test')}
    return Run(
        classifier=classifier,
        fields=flatten(classifier.config),
        results=classifier.files.read_results(),
        log=log,
        saved=_saved(classifier),
        changes=data.changes,
        sizes={name: len(images.positions) for name, images in splits.items() if images},
        judged=judged,
        classes=_count(classifier, data, found, judged),
        mistakes=_mistakes(found[judged]) if judged else None,
        review=_review(found['unlabeled']) if 'unlabeled' in found else None,
        reliability=_reliability(found, judged) if judged else None,
        pools=_embed(samples, seed),
    )


def _saved(classifier: Classifier) -> datetime:
    files = classifier.files
    path = files.results if files.results.exists() else files.checkpoints / str(classifier.step)
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()


def _count(
    classifier: Classifier, data: RunData, found: dict[str, Judged], judged: str | None
) -> ClassCounts:
    num_classes = len(classifier.class_names)

    def count(classes: np.ndarray) -> np.ndarray:
        return np.bincount(classes, minlength=num_classes)

    labels = data.dataset.train_labels[data.labeled]
    unlabeled = found.get('unlabeled')
    return ClassCounts(
        count(labels[labels >= 0]),
        None if unlabeled is None else count(unlabeled.classes),
        confusion_counts(found[judged].labels, found[judged].classes, num_classes) if judged else None,
    )


def _mistakes(judged: Judged) -> Mistakes | None:
    wrong = most_confident_mistakes(judged.labels, judged.classes, judged.confidence)
    return Mistakes(judged.show(wrong[:MOST]), len(wrong)) if len(wrong) else None


def _review(unlabeled: Judged) -> Review:
    samples = choose_samples(unlabeled.classes, unlabeled.confidence)
    kept = np.unique(np.concatenate([part for sample in samples for part in (sample.most, sample.least)]))
    samples = [
        sample._replace(most=np.searchsorted(kept, sample.most), least=np.searchsorted(kept, sample.least))
        for sample in samples
    ]
    judged, total = len(unlabeled.chosen), len(unlabeled.images.positions)
    return Review(samples, unlabeled.show(kept), judged, total)


def _reliability(found: dict[str, Judged], judged: str) -> Reliability:
    of = found[judged]
    known = of.labels >= 0
    correct = (of.classes == of.labels)[known]
    confidence = Confidence(of.confidence[known], correct)

    def without(why: str) -> Reliability:
        return Reliability(confidence, None, f'No temperature is fitted: {why}.')

    if judged != 'test' or 'validation' not in found:
        return without('that takes validation images beside the test images')
    held_out = found['validation']
    if of.probs is None or held_out.probs is None:
        return without('the probabilities of so many images and classes are not kept')
    temperature = fit_temperature(held_out.probs, held_out.labels)
    if temperature is None:
        return without(f'{len(held_out.classes)} validation images are fewer than {FEWEST}')
    scaled = rescale(of.probs[known], temperature).max(axis=-1)
    return Reliability(
        confidence, Rescaled(temperature, len(held_out.classes), Confidence(scaled, correct)), ''
    )


def _embed(samples: Sequence[Sample], seed: int) -> list[EmbeddedPool]:
    features = np.concatenate([sample.features for sample in samples])
    begun = time.perf_counter()
    points = embed(features, seed=seed)
    say(f't-SNE of {len(features):,} images in {time.perf_counter() - begun:.1f} s')
    ends = np.cumsum([len(sample.features) for sample in samples])[:-1]
    return [
        EmbeddedPool(
            sample.name,
            sample.total,
            part,
            np.where(sample.labels >= 0, sample.labels, sample.classes),
            sample.labels >= 0,
        )
        for sample, part in zip(samples, np.split(points, ends), strict=True)
    ]
