"""Classify images with a trained run, into a CSV file.

    python -m metasemi_jax.predict --workdir=runs/mine photos/ one.png arrays.npz
    python -m metasemi_jax.predict --workdir=runs/mine --split=test
    python -m metasemi_jax.predict --workdir=runs/mine --unlabeled

Images are files, folders of them, or .npz files with an array x, [N, H, W] or [N, H, W, C]; they are read and
resized as in training. The columns: path, predicted (the class), probability, label (of a split where labels
are known), p(CLASS) for every class with --all, and error, which says why an image could not be read; such an
image does not stop the rest. For a split with labels the error in percent is printed: that of results.json.
"""

import contextlib
import csv
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

import numpy as np
from absl import flags

from metasemi_jax.classifier import Classifier, Predictions, load_classifier, predict_batches
from metasemi_jax.cli import run_command
from metasemi_jax.command.flags import (
    define_data_location,
    define_output,
    define_weights,
    define_workdir,
    required_workdir,
)
from metasemi_jax.compilation_cache import enable_compilation_cache
from metasemi_jax.data.images.chunks import Chunk, ImageSource, array_source, open_images
from metasemi_jax.errors import UserError, first_ten, printable
from metasemi_jax.predict.output import FIRST_COLUMNS, STDOUT, check_output, open_output
from metasemi_jax.predict.run_data import RUN_SPLITS, load_run_data, split_images
from metasemi_jax.progress import ImageCounter, ProgressLine
from metasemi_jax.training.experiment_data import evaluation_resize
from metasemi_jax.workdir import Workdir


class Columns(NamedTuple):
    """Columns of the CSV file."""

    class_names: tuple[str, ...]
    labels: bool  # whether some image has a known label
    every_class: bool

    def header(self) -> list[str]:
        """The first line."""
        label = ['label'] if self.labels else []
        every = [f'p({name})' for name in self.class_names] if self.every_class else []
        return [*FIRST_COLUMNS, *label, *every, 'error']

    def rows(self, chunk: Chunk, predictions: Predictions) -> Iterator[tuple[float, list[str]]]:
        """(probability of the predicted class, line) of each image; -1 for one that could not be read."""
        highest = predictions.probs[np.arange(len(chunk.names)), predictions.classes]
        # The shortest digits that give each float32 back.
        shown = highest.astype(str).tolist()
        every = predictions.probs.astype(str).tolist() if self.every_class else [[]] * len(shown)
        for i, name in enumerate(chunk.names):
            label = [self._label(chunk, i)] if self.labels else []
            if i in chunk.errors:
                yield -1.0, [name, '', '', *label, *([''] * len(every[i])), chunk.errors[i]]
                continue
            predicted = self.class_names[predictions.classes[i]]
            yield float(highest[i]), [name, predicted, shown[i], *label, *every[i], '']

    def _label(self, chunk: Chunk, i: int) -> str:
        return '' if chunk.labels is None or chunk.labels[i] < 0 else self.class_names[chunk.labels[i]]


class Tally:
    """Counts over the images so far."""

    def __init__(self):
        self.count = self.known = self.wrong = 0
        self.failed: list[str] = []  # 'name (reason)'

    def add(self, chunk: Chunk, predictions: Predictions) -> None:
        """Count a batch."""
        self.count += len(chunk.names)
        self.failed += [f'{printable(chunk.names[i])} ({reason})' for i, reason in chunk.errors.items()]
        if chunk.labels is not None:
            known = chunk.labels >= 0
            self.known += int(known.sum())
            self.wrong += int((known & (predictions.classes != chunk.labels)).sum())

    @property
    def error(self) -> float:
        """Percent of the images whose label is known, divided as `evaluate` does it."""
        return 100 * self.wrong / self.known


def classify(
    classifier: Classifier, sources: Sequence[ImageSource], *, batch_size: int
) -> Iterator[tuple[Chunk, Predictions]]:
    """Every chunk of `sources`, in order, with its predictions; compiled when this returns."""
    handed_over: deque[Chunk] = deque()

    def batches() -> Iterator[np.ndarray]:
        for source in sources:
            for chunk in source.chunks(batch_size):
                handed_over.append(chunk)
                yield chunk.images

    predictions = predict_batches(classifier, batches(), batch_size=batch_size)
    return ((handed_over.popleft(), outputs) for outputs in predictions)


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    # Flags of its own, so that a program may import this module beside other commands.
    values = flags.FlagValues()
    _define_flags(values)
    run_command(lambda *images: _predict(images, **values.flag_values_dict()), argv, values=values, many=True)


def _define_flags(values: flags.FlagValues) -> None:
    define_workdir(values)
    flags.DEFINE_enum(
        'split',
        None,
        RUN_SPLITS,
        "Classify the run's own images: of the test or validation set, or its labeled or unlabeled pool.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        'unlabeled', False, 'Classify the unlabeled pool, the most confident first.', flag_values=values
    )
    define_weights(values)
    flags.DEFINE_boolean('all', False, 'Write the probability of every class.', flag_values=values)
    define_output(
        values,
        'The CSV file, or - for standard output; by default predictions.csv or predictions_SPLIT.csv in the '
        'workdir.',
    )
    flags.DEFINE_integer(
        'batch_size',
        0,
        "Images on the device at a time; 0 for the run's eval_batch_size.",
        lower_bound=0,
        flag_values=values,
    )
    define_data_location(values)


def _predict(
    images: Sequence[str],
    *,
    workdir: str | None,
    split: str | None,
    unlabeled: bool,
    weights: str,
    all: bool,
    output: str | None,
    batch_size: int,
    data_path: str,
    data_dir: str,
    manual_dir: str,
) -> None:
    workdir = required_workdir(workdir)
    split = _check_choice(images, split, unlabeled)
    name = f'predictions_{split}.csv' if split else 'predictions.csv'
    output = output or str(Workdir(workdir).path / name)
    check_output(output)
    started = time.perf_counter()
    enable_compilation_cache()
    classifier = load_classifier(workdir, weights=weights)
    # With the rows on standard output, what people read goes where errors go.
    people = sys.stderr if output in STDOUT else sys.stdout
    print(classifier.description, file=people)
    has_labels = False
    if split:
        places = {'data_path': data_path, 'data_dir': data_dir, 'manual_dir': manual_dir}
        source, has_labels = _open_split(classifier, split, people, **places)
        sources = [source]
    else:
        sources = open_images(
            images,
            classifier.input_spec.image_shape,
            resize=evaluation_resize(classifier.config),
            say=lambda line: print(line, file=people),
        )
    count = sum(source.count for source in sources)
    if not batch_size:
        batch_size = classifier.config.eval_batch_size
    columns = Columns(classifier.class_names, has_labels, all)
    with open_output(output, classifier.files.path) as file:
        results = classify(classifier, sources, batch_size=min(batch_size, count))
        begun = time.perf_counter()
        tally = _write_rows(file, results, columns, count, people, surest_first=unlabeled)
        seconds = time.perf_counter() - begun
    for line in _summary(tally, split, seconds, time.perf_counter() - started):
        print(line, file=people)
    if output not in STDOUT:
        print(f'written to {output}', file=people)


def _check_choice(images: Sequence[str], split: str | None, unlabeled: bool) -> str | None:
    if unlabeled and split not in (None, 'unlabeled'):
        raise UserError(f'--unlabeled and --split={split} name two splits; choose one')
    split = 'unlabeled' if unlabeled else split
    if split and images:
        raise UserError(f"name either images ('{images[0]}') or the run's {split} images, not both")
    if not split and not images:
        raise UserError(
            'nothing to classify; name image files, folders or .npz files, --split=test or --unlabeled'
        )
    return split


def _open_split(
    classifier: Classifier, split: str, people: TextIO, **places: str
) -> tuple[ImageSource, bool]:
    """The run's images of `split`, and whether the label of any is known."""
    # Lines that loading prints are for people too.
    with contextlib.redirect_stdout(people):
        data = load_run_data(classifier, **places)
    if data.changes:
        print(data.changes, file=people)
    chosen = split_images(classifier, data, split)
    source = array_source(chosen.ids, chosen.images, chosen.positions, chosen.labels)
    return source, bool((chosen.labels >= 0).any())


def _write_rows(
    file: TextIO,
    results: Iterator[tuple[Chunk, Predictions]],
    columns: Columns,
    count: int,
    people: TextIO,
    *,
    surest_first: bool,
) -> Tally:
    """Write the table of `count` images; refuses to write one without a single image that can be read."""
    tally = Tally()
    with contextlib.closing(ProgressLine(people)) as progress:
        counter = ImageCounter(progress, 'classified')

        def counted() -> Iterator[tuple[float, list[str]]]:
            for chunk, predictions in results:
                tally.add(chunk, predictions)
                for row in columns.rows(chunk, predictions):
                    counter(count)
                    yield row

        rows = sorted(counted(), key=lambda row: -row[0]) if surest_first else counted()
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(columns.header())
        writer.writerows(row for _, row in rows)
    if len(tally.failed) == count:
        raise UserError(f'none of the {count:,} images can be read: {first_ten(tally.failed)}')
    return tally


def _summary(tally: Tally, split: str | None, seconds: float, whole: float) -> Iterator[str]:
    throughput = tally.count / max(seconds, 1e-9)
    yield f'{tally.count:,} images, {throughput:,.0f} images/s; {whole:.1f} s with loading and compiling'
    if tally.failed:
        listed = first_ten(tally.failed)
        yield f'{len(tally.failed):,} of them could not be read, see the column error: {listed}'
    if tally.known:
        which = '' if tally.known == tally.count else ' whose label is known'
        yield f'{split} error {tally.error:.2f}% ({tally.wrong:,} of {tally.known:,} images{which})'


if __name__ == '__main__':
    main(sys.argv)
