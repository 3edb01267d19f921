"""Calibration of the predicted class's probability, and the temperature that would mend it."""

from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.visualize.style import BLACK, BLUE, ORANGE, Drawing, new_figure, thousands, tidy

BINS = 15  # as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
FEWEST = 20  # images that a temperature is fitted on
BOUNDS = (0.05, 20.0)  # of a temperature


class Confidence(NamedTuple):
    """Predictions for n images whose class is known."""

    probability: np.ndarray  # float [n], of the predicted class
    correct: np.ndarray  # bool [n]


class Rescaled(NamedTuple):
    """The same predictions at another temperature."""

    temperature: float
    fitted_on: int  # images
    confidence: Confidence


class Reliability(NamedTuple):
    """Calibration of the probabilities on a split."""

    confidence: Confidence
    rescaled: Rescaled | None  # at a temperature that was fitted on held-out images
    why_not: str  # a sentence, where there is none


class Bins(NamedTuple):
    """Bins of equal width over the probability of the predicted class."""

    counts: np.ndarray  # int [BINS]
    probability: np.ndarray  # float [BINS], the mean; NaN where there is none
    accuracy: np.ndarray  # float [BINS]; NaN where there is none

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of confidence and accuracy, over the images."""
        distance = np.nan_to_num(np.abs(self.probability - self.accuracy))
        return float((self.counts * distance).sum() / max(self.counts.sum(), 1))


def find_bins(confidence: Confidence) -> Bins:
    """Sort n images into `BINS` by their probability."""
    place = np.minimum((confidence.probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, values, BINS) for values in (confidence.probability, confidence.correct)]
    with np.errstate(invalid='ignore'):
        return Bins(counts, *(total / counts for total in sums))


def fit_temperature(probs: np.ndarray, labels: np.ndarray) -> float | None:
    """The T that makes the labels likeliest under softmax(log p / T); None for fewer than `FEWEST` images.

    Args:
      probs: float [n, K], of images that neither trained the network nor report its error.
      labels: int [n].
    """
    from scipy.optimize import minimize_scalar

    if len(labels) < FEWEST:
        return None

    def loss(log_temperature: float) -> float:
        scaled = rescale(probs, np.exp(log_temperature))
        return -np.log(np.maximum(scaled[np.arange(len(labels)), labels], 1e-30)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method='bounded').x))


def rescale(probs: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T) of float [n, K]; the order of the classes stays."""
    logits = np.log(np.maximum(probs.astype(np.float64), 1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def draw_reliability(reliability: Reliability, *, name: str, split: str) -> Drawing:
    """Accuracy against probability, and how many images have which."""
    confidence, rescaled, _ = reliability
    figure = new_figure(5.6, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color='0.6', linestyle=':', label='calibrated')
    bins = find_bins(confidence)
    _draw_line(upper, bins, BLUE, '-', 'as predicted')
    if rescaled:
        label = f'at temperature {rescaled.temperature:.2f}'
        _draw_line(upper, find_bins(rescaled.confidence), ORANGE, '--', label)
    upper.set(xlim=(0, 100), ylim=(0, 103), ylabel='correct, %')
    upper.legend(frameon=False, fontsize='small', loc='best')
    edges = np.linspace(0, 100, BINS + 1)
    lower.bar(edges[:-1], bins.counts, 100 / BINS, align='edge', color=BLUE, edgecolor='white')
    lower.set(xlabel='probability of the predicted class, %', ylabel='images')
    thousands(lower.yaxis)
    for axes in (upper, lower):
        tidy(axes, 'both')
    caption = _caption(reliability, name=name, split=split)
    return Drawing('Reliability of the probabilities', figure, caption)


def _draw_line(axes: Any, bins: Bins, colour: str, style: str, label: str) -> None:
    there = bins.counts > 0
    points = 100 * bins.probability[there], 100 * bins.accuracy[there]
    axes.plot(*points, style, color=colour, linewidth=1, alpha=0.6)
    # A bin of few images gets a small marker.
    areas = 12 + 110 * np.sqrt(bins.counts[there] / bins.counts.max())
    marker = {'marker': 's' if style == '--' else 'o', 'edgecolors': BLACK, 'linewidths': 0.4}
    axes.scatter(*points, s=areas, color=colour, label=label, clip_on=False, zorder=3, **marker)


def _caption(reliability: Reliability, *, name: str, split: str) -> str:
    confidence, rescaled, why_not = reliability
    mean, correct = 100 * confidence.probability.mean(), 100 * confidence.correct.mean()
    verdict = 'underconfident' if mean < correct else 'overconfident'
    sentences = [
        f'Reliability on the {len(confidence.correct):,} {split} images: {name}. The mean probability of the '
        f'predicted class is {mean:.1f}%, {correct:.1f}% are correct: the network is {verdict} by '
        f'{abs(mean - correct):.1f} points. Expected calibration error ({BINS} equal bins): '
        f'{100 * find_bins(confidence).error:.1f} points. Larger points stand for more images.'
    ]
    if rescaled:
        after = rescaled.confidence.probability.mean()
        sentences.append(
            f'Divided by the temperature {rescaled.temperature:.2f}, fitted on the {rescaled.fitted_on:,} '
            f'validation images, the logits would give a mean of {100 * after:.1f}% and an error of '
            f'{100 * find_bins(rescaled.confidence).error:.1f} points.'
        )
    return ' '.join([*sentences, why_not] if why_not else sentences)
