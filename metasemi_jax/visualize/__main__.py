"""Pictures of what a run has learnt, from its workdir alone, and one page that holds them.

    python -m metasemi_jax.visualize runs/digits
    python -m metasemi_jax.visualize runs/labeled_only runs/metasemi --output=runs/compared

Into WORKDIR/figures, each as .png and .pdf: tsne (the paper's Figure 3: the features of labeled, unlabeled
and test images), curves (losses, errors, learning rate), pseudo_labels (their accuracy before and after the
meta update), confusion (which class is taken for which) and mistakes (the most confidently wrong images). And
report.html, which holds them with results and settings and opens without a network.

Several runs of the same classes: t-SNE of all, one above the other, and the other pictures of each in a
folder of its name. A run that is not finished, or going on, is shown as it is at its last checkpoint.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from metasemi_jax.classifier import WEIGHTS, WEIGHTS_HELP, Classifier, load_classifier
from metasemi_jax.cli import run_command
from metasemi_jax.compilation_cache import enable_compilation_cache
from metasemi_jax.config import LOCATIONS, flatten
from metasemi_jax.data.images.counter import ImageCounter
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import SPLITS, load_run_data
from metasemi_jax.progress import ProgressLine
from metasemi_jax.report.published import ABLATION
from metasemi_jax.results import PROTOCOLS
from metasemi_jax.results import WEIGHTS as RESULT_WEIGHTS
from metasemi_jax.visualize.confusion import confusion_counts, draw_confusion
from metasemi_jax.visualize.curves import draw_curves, draw_pseudo_labels
from metasemi_jax.visualize.embedding import embed
from metasemi_jax.visualize.html_report import Section, html_report
from metasemi_jax.visualize.mistakes import MOST, Mistakes, draw_mistakes, most_confident_mistakes
from metasemi_jax.visualize.run_outputs import Judged, Sample, choose_judged, run_network
from metasemi_jax.visualize.style import Drawing, Picture, render
from metasemi_jax.visualize.training_log import TrainingLog, read_training_log
from metasemi_jax.visualize.tsne import Pool, TsneRow, draw_tsne
from metasemi_jax.workdir import naming_output, write_atomically

NAMED_FIELDS = 4  # that differ between runs; more would make no name
METHOD = ('method.meta', 'method.mixup')  # named by their row of the ablation
# Where the data lie and how often the loop looks up are no settings of what is learnt.
CADENCE = ('log_every', 'eval_every', 'eval_batch_size', 'checkpoint_every', 'steps_per_call')
UNNAMED_FIELDS = {*LOCATIONS, *METHOD, *CADENCE}


class Run(NamedTuple):
    """All that is drawn of a run; its images are let go."""

    classifier: Classifier
    fields: dict[str, Any]  # of its config, flat
    results: dict[str, Any] | None  # of a finished run
    log: TrainingLog
    judged: str  # split
    counts: np.ndarray  # int [K, K], see `confusion_counts`
    mistakes: Mistakes | None
    pools: list[Pool]


def main(argv: list[str]) -> None:
    """The command; ends with one line and the exit code 1 where it cannot do what is asked.

    Args:
      argv: as `sys.argv`.
    """
    values = flags.FlagValues()
    _define_flags(values)
    run_command(
        lambda *folders: _visualize(folders, **values.flag_values_dict()), argv, values=values, many=True
    )


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        'num_points',
        2000,
        'Images in the t-SNE of a run, at most: labeled ones first, up to a third, the others at random.',
        lower_bound=10,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'seed',
        0,
        'Of that choice, and of t-SNE.',
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )
    flags.DEFINE_string(
        'output',
        None,
        'Folder for the pictures and report.html, made if missing; by default figures in the workdir, for '
        'several runs runs/figures.',
        flag_values=values,
    )
    flags.DEFINE_enum(
        'split',
        None,
        SPLITS,
        'Images for the confusion matrix and the mistakes; by default test, in runs without a test set '
        'validation.',
        flag_values=values,
    )
    flags.DEFINE_enum('weights', 'reported', list(WEIGHTS), WEIGHTS_HELP, flag_values=values)
    flags.DEFINE_string(
        'data_path',
        '',
        "Where the runs' own images have moved to: the folder, .csv or .npz file.",
        flag_values=values,
    )
    flags.DEFINE_string('data_dir', '', "Where the runs' TFDS datasets have moved to.", flag_values=values)


def _visualize(
    folders: Sequence[str],
    *,
    num_points: int,
    seed: int,
    output: str | None,
    split: str | None,
    weights: str,
    data_path: str,
    data_dir: str,
) -> None:
    if not folders:
        raise UserError('name the folders of runs: ... metasemi_jax.visualize runs/digits')
    started = time.perf_counter()
    enable_compilation_cache()
    classifiers = [load_classifier(folder, weights=weights) for folder in folders]
    _check_runs(classifiers)
    target = _output_folder(output, classifiers)
    runs = []
    for classifier in classifiers:
        print(classifier.description)
        run = _look(
            classifier, split, num_points=num_points, seed=seed, data_path=data_path, data_dir=data_dir
        )
        if run.log.num_damaged:
            print(f'{classifier.files.metrics}: {run.log.num_damaged} damaged lines skipped')
        runs.append(run)
    contents = _draw(runs, seed)
    _write(target, contents)
    print(f'written to {target} in {time.perf_counter() - started:.1f} s: {", ".join(contents)}')


def _check_runs(classifiers: Sequence[Classifier]) -> None:
    first = classifiers[0]
    for classifier in classifiers[1:]:
        if classifier.class_names != first.class_names:
            raise UserError(
                f'{classifier.files.path} has other classes than {first.files.path}; show them one by one'
            )
    twice = [path for path, n in Counter(c.files.path.resolve() for c in classifiers).items() if n > 1]
    if twice:
        raise UserError(f'{twice[0]} is named twice; name each run once')


def _output_folder(output: str | None, classifiers: Sequence[Classifier]) -> Path:
    """Where to write, refused before the work rather than after it."""
    several = len(classifiers) > 1
    target = Path(output or ('runs/figures' if several else classifiers[0].files.path / 'figures'))
    nearest = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f'--output={target}: {nearest} is a file; name a folder')
    return target


def _look(
    classifier: Classifier, split: str | None, *, num_points: int, seed: int, data_path: str, data_dir: str
) -> Run:
    dataset = load_run_data(classifier, data_path=data_path, data_dir=data_dir)
    with contextlib.closing(ProgressLine()) as progress:
        judged, samples = run_network(
            classifier,
            dataset,
            judged=choose_judged(classifier, dataset, split),
            num_points=num_points,
            seed=seed,
            count=ImageCounter(progress, 'classified'),
        )
    labels = judged.images.labels
    return Run(
        classifier,
        flatten(classifier.config),
        classifier.files.read_results(),
        read_training_log(classifier.files.metrics),
        judged.name,
        confusion_counts(labels, judged.classes, len(classifier.class_names)),
        _mistakes(judged),
        _embed(samples, seed),
    )


def _mistakes(judged: Judged) -> Mistakes | None:
    found = judged.images
    wrong = most_confident_mistakes(found.labels, judged.classes, judged.confidence)
    if not len(wrong):
        return None
    top = wrong[:MOST]
    # One by one: an array that is mapped from a file would be read in the order of its positions otherwise.
    images = np.stack([np.asarray(found.images[i]) for i in found.positions[top]])
    return Mistakes(
        images, found.ids[top], found.labels[top], judged.classes[top], judged.confidence[top], len(wrong)
    )


def _embed(samples: Sequence[Sample], seed: int) -> list[Pool]:
    features = np.concatenate([sample.features for sample in samples])
    begun = time.perf_counter()
    points = embed(features, seed=seed)
    print(f't-SNE of {len(features):,} images in {time.perf_counter() - begun:.1f} s')
    ends = np.cumsum([len(sample.features) for sample in samples])[:-1]
    return [
        Pool(
            sample.name,
            sample.total,
            part,
            np.where(sample.labels >= 0, sample.labels, sample.classes),
            sample.labels >= 0,
        )
        for sample, part in zip(samples, np.split(points, ends), strict=True)
    ]


def _draw(runs: Sequence[Run], seed: int) -> dict[str, bytes]:
    """Every file by its path in the output folder."""
    class_names = runs[0].classifier.class_names
    names = run_names([run.fields for run in runs], [run.classifier.files.path.name for run in runs])
    shown = [f'{name}, {_moment(run)}' for name, run in zip(names, runs, strict=True)]
    rows = [TsneRow(name, run.pools) for name, run in zip(shown, runs, strict=True)]
    tsne = render(draw_tsne(rows, class_names, seed=seed))
    contents = _files('tsne', tsne)
    sections = []
    if len(runs) > 1:
        sections.append(Section('All runs', pictures=[tsne]))
    for run, name, folder in zip(runs, shown, _folders(runs), strict=True):
        pictures = {} if len(runs) > 1 else {'tsne': tsne}
        drawings = _drawings(run, name)
        pictures |= {file: render(drawing) for file, drawing in drawings.items() if drawing}
        for file, picture in pictures.items():
            contents |= _files(f'{folder}{file}', picture)
        sections.append(_section(run, name, pictures, drawings))
    title = names[0] if len(runs) == 1 else f'{len(runs)} runs'
    contents['report.html'] = html_report(title, sections).encode()
    return contents


def _drawings(run: Run, name: str) -> dict[str, Drawing | None]:
    """All but t-SNE, by the name of the file; None for what this run has nothing to show of."""
    class_names = run.classifier.class_names
    return {
        'curves': draw_curves(run.log.series, name),
        'pseudo_labels': draw_pseudo_labels(run.log.series, name),
        'confusion': draw_confusion(run.counts, class_names, name=name, split=run.judged),
        'mistakes': run.mistakes and draw_mistakes(run.mistakes, class_names, name=name, split=run.judged),
    }


def _section(
    run: Run, name: str, pictures: dict[str, Picture], drawings: dict[str, Drawing | None]
) -> Section:
    paragraphs = [run.classifier.description]
    if run.results is None:
        paragraphs.append(
            f'This run is not finished: its last checkpoint is of step {run.classifier.step:,} of '
            f'{run.fields["total_steps"]:,}.'
            if run.classifier.weights in ('last', 'ema')
            else 'This run is not finished.'
        )
    absent = {
        'curves': 'There are no training curves: metrics.jsonl holds no figures.',
        'pseudo_labels': 'Nothing was logged of pseudo-labels: this run makes none, or has no metrics.jsonl.',
        'mistakes': f'No {run.judged} image is classified wrongly.',
    }
    paragraphs += [absent[file] for file, drawing in drawings.items() if drawing is None]
    return Section(
        name,
        paragraphs,
        _result_rows(run.results or {}),
        list(pictures.values()),
        [(field, str(value)) for field, value in run.fields.items()],
    )


def _result_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f'{results[prefix + protocol]:.2f}%', f'{protocol.split("_")[0]} images, {weights}', meaning)
        for prefix, weights in RESULT_WEIGHTS.items()
        for protocol, meaning in PROTOCOLS.items()
        if prefix + protocol in results
    ]


def run_names(configs: Sequence[dict[str, Any]], folders: Sequence[str]) -> list[str]:
    """A name for each run: its row of the ablation, its dataset if alone, and what else tells it apart."""
    differing = [
        field
        for field in sorted({field for config in configs for field in config} - UNNAMED_FIELDS)
        if len({str(config.get(field)) for config in configs}) > 1
    ]
    names = []
    for config in configs:
        row = ABLATION[tuple(bool(config.get(field, True)) for field in METHOD)]
        alone = [f'{config["data.name"]}, seed {config.get("seed", 0)}'] if len(configs) == 1 else []
        others = [f'{field}={config.get(field)}' for field in differing[:NAMED_FIELDS]]
        names.append(', '.join([row, *alone, *others, *['…'] * (len(differing) > NAMED_FIELDS)]))
    if len({*names}) < len(names):
        names = [f'{name} ({folder})' for name, folder in zip(names, folders, strict=True)]
    return names


def _moment(run: Run) -> str:
    kind = '' if run.classifier.weights == 'last' else f' ({run.classifier.weights} weights)'
    unfinished = '' if run.results else f' of {run.fields["total_steps"]:,}, not finished'
    return f'step {run.classifier.step:,}{unfinished}{kind}'


def _folders(runs: Sequence[Run]) -> list[str]:
    """'NAME/' for each of several runs, unique; '' for one alone."""
    if len(runs) == 1:
        return ['']
    folders: list[str] = []
    for run in runs:
        name = run.classifier.files.path.name
        candidates = [name, *(f'{name}_{i}' for i in range(2, len(runs) + 2))]
        folders.append(next(name for name in candidates if f'{name}/' not in folders) + '/')
    return folders


def _files(name: str, picture: Picture) -> dict[str, bytes]:
    return {f'{name}.{suffix}': content for suffix, content in picture.files.items()}


def _write(target: Path, contents: dict[str, bytes]) -> None:
    with naming_output(target, 'folder'):
        for name, content in contents.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target / name, content)


if __name__ == '__main__':
    main(sys.argv)
