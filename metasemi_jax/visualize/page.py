"""The files of one or several runs: pictures, and report.html that holds them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from metasemi_jax.results import METRICS, PROTOCOLS, WEIGHT_PREFIXES
from metasemi_jax.visualize.calibration import draw_reliability
from metasemi_jax.visualize.classes import class_header, class_rows, draw_class_errors
from metasemi_jax.visualize.confusion import draw_confusion
from metasemi_jax.visualize.curves import draw_curves, draw_pseudo_labels
from metasemi_jax.visualize.fonts import drawable_classes, drawing_fonts, fonts_for
from metasemi_jax.visualize.html_report import Section, Table, html_report
from metasemi_jax.visualize.look import Run
from metasemi_jax.visualize.mistakes import draw_mistakes
from metasemi_jax.visualize.review import draw_review
from metasemi_jax.visualize.run_names import output_folders, run_names
from metasemi_jax.visualize.style import Drawing, Picture, render
from metasemi_jax.visualize.tsne import TsneRow, draw_tsne

SHORT_PROTOCOLS = {
    name: name.split('_error_')[1].replace('_', ' ').replace('20', ' of 20') for name in PROTOCOLS
}
PAGE = 'report.html'
# Order of the pictures; further sheets of unlabeled images follow theirs.
NAMES = (
    'tsne',
    'curves',
    'pseudo_labels',
    'confusion',
    'class_errors',
    'reliability',
    'mistakes',
    'unlabeled',
)
UNFOLDED = 20  # classes of a table that is shown at once


def draw_files(runs: Sequence[Run], seed: int, *, now: datetime) -> dict[str, bytes]:
    """Every file of `runs`, of the same classes, by its path in the output folder; `now`: the page's date."""
    with drawing_fonts(_texts(runs)):
        return _draw_files(runs, seed, now)


def undrawable(class_names: Sequence[str]) -> str:
    """A line for people on classes that no font here can draw; '' where all can be drawn."""
    absent = sorted(fonts_for(''.join(class_names)).absent)
    if not absent:
        return ''
    count = sum(bool(fonts_for(name).absent) for name in class_names)
    return (
        f'no font here has {"".join(absent[:10])}{"…" * (len(absent) > 10)}: pictures show the numbers of '
        f'{count} classes, report.html their names; install a font that has them, as those of Noto'
    )


def _texts(runs: Sequence[Run]) -> list[str]:
    texts = [*runs[0].classifier.class_names]
    for run in runs:
        texts += [run.classifier.files.path.name]
        texts += [] if run.mistakes is None else run.mistakes.shown.ids.tolist()
        texts += [] if run.review is None else run.review.shown.ids.tolist()
    return texts


def _draw_files(runs: Sequence[Run], seed: int, now: datetime) -> dict[str, bytes]:
    class_names = drawable_classes(runs[0].classifier.class_names)
    folder_names = [run.classifier.files.path.name for run in runs]
    names = run_names([run.fields for run in runs], folder_names)
    shown = [f'{name}, {_moment(run)}' for name, run in zip(names, runs, strict=True)]
    rows = [TsneRow(name, run.pools) for name, run in zip(shown, runs, strict=True)]
    tsne = render(draw_tsne(rows, class_names, seed=seed))
    contents = _files('tsne', tsne)
    sections = []
    drawn = f'Drawn on {_date(now)}.'
    if len(runs) > 1:
        sections.append(Section('All runs', [drawn], [_comparison(runs, shown)], [tsne]))
    for run, name, folder in zip(runs, shown, output_folders(folder_names), strict=True):
        pictures = {} if len(runs) > 1 else {'tsne': tsne}
        pictures |= {file: render(drawing) for file, drawing in _drawings(run, name, class_names).items()}
        for file, picture in pictures.items():
            contents |= _files(f'{folder}{file}', picture)
        section = _section(run, pictures)
        if len(runs) == 1:
            section = section._replace(paragraphs=[*section.paragraphs, drawn])
        else:
            section = section._replace(heading=name)
        sections.append(section)
    title = shown[0] if len(runs) == 1 else f'{len(runs)} runs'
    contents[PAGE] = html_report(title, sections).encode()
    return contents


def _drawings(run: Run, name: str, class_names: Sequence[str]) -> dict[str, Drawing]:
    """All drawings but t-SNE, by file name; a drawing without content is left out."""
    found = {
        'curves': draw_curves(run.log.series, name),
        'pseudo_labels': draw_pseudo_labels(run.log.series, name),
    }
    if run.judged:
        where = {'name': name, 'split': run.judged}
        counts = run.classes.counts
        found['confusion'] = draw_confusion(counts, class_names, **where)
        found['class_errors'] = draw_class_errors(counts, run.classes.labeled, class_names, **where)
        found['reliability'] = draw_reliability(run.reliability, **where)
        found['mistakes'] = run.mistakes and draw_mistakes(run.mistakes, class_names, **where)
    sheets = draw_review(run.review, class_names, name=name) if run.review else []
    found |= {'unlabeled' if i == 0 else f'unlabeled_{i + 1}': sheet for i, sheet in enumerate(sheets)}
    return {file: drawing for file, drawing in found.items() if drawing}


def _section(run: Run, pictures: dict[str, Picture]) -> Section:
    sizes = ', '.join(f'{count:,} {name}' for name, count in run.sizes.items())
    paragraphs = [
        run.classifier.description,
        f'{sizes} images. {"Finished" if run.results else "Last saved"} on {_date(run.saved)}.',
    ]
    if run.results is None:
        paragraphs.append(
            f'This run is not finished: its last checkpoint is of step {run.classifier.step:,} of '
            f'{run.fields["total_steps"]:,}.'
            if run.classifier.weights in ('last', 'ema')
            else 'This run is not finished.'
        )
    if run.changes:
        paragraphs.append(f'{run.changes[0].upper()}{run.changes[1:]}.')
    absent = {
        'curves': 'There are no training curves: metrics.jsonl holds no metrics.',
        'pseudo_labels': 'Nothing was logged of pseudo-labels: this run makes none, or has no metrics.jsonl.',
        'unlabeled': 'There are no unlabeled images to show.',
    }
    if run.judged:
        absent['mistakes'] = f'No {run.judged} image is classified wrongly.'
    else:
        absent['confusion'] = 'No test or validation image is left, so no error can be shown.'
    paragraphs += [sentence for file, sentence in absent.items() if file not in pictures]
    results = _result_rows(run.results or {})
    tables = [Table('Results', ('error', 'of', 'chosen'), results, frozenset({0}))] if results else []
    return Section(
        '',
        paragraphs,
        [*tables, _class_table(run)],
        list(pictures.values()),
        [(field, str(value)) for field, value in run.fields.items()],
    )


def _class_table(run: Run) -> Table:
    header = class_header(run.classes, run.judged or '')
    names = run.classifier.class_names
    numbers = frozenset(range(len(header))) - {1}
    folded = len(names) > UNFOLDED
    title = f'The {len(names):,} classes' if folded else 'Classes'
    return Table(title, header, class_rows(run.classes, names), numbers, folded)


def _comparison(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """A row for each run: its results, and the error of the weights that are shown."""
    keys = {
        prefix + protocol: ', '.join([protocol.split('_')[0], kind, *['EMA'] * bool(prefix)])
        for prefix in WEIGHT_PREFIXES
        for protocol, kind in SHORT_PROTOCOLS.items()
        if any(prefix + protocol in (run.results or {}) for run in runs)
    }
    rows = []
    for run, name in zip(runs, names, strict=True):
        counts = run.classes.counts
        error = '–' if counts is None else f'{100 * (1 - counts.trace() / max(counts.sum(), 1)):.2f}'
        errors = [(run.results or {}).get(key) for key in keys]
        cells = ['–' if error is None else f'{error:.2f}' for error in errors]
        rows.append((name, f'{run.sizes.get("labeled", 0):,}', error, *cells))
    header = ('run', 'labels', 'error of these weights, %', *keys.values())
    return Table('Errors in percent', header, rows, frozenset(range(1, len(header))))


def _result_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f'{results[name]:.2f}%', f'{name.removeprefix("ema_").split("_")[0]} images, {weights}', meaning)
        for name, (weights, meaning) in METRICS.items()
        if name in results
    ]


def _moment(run: Run) -> str:
    weights = run.classifier.weights.replace('_', ' ').replace('ema', 'EMA')
    kind = '' if weights == 'last' else f' ({weights} weights)'
    unfinished = '' if run.results else f' of {run.fields["total_steps"]:,}, not finished'
    return f'step {run.classifier.step:,}{unfinished}{kind}'


def _date(moment: datetime) -> str:
    return f'{moment:%Y-%m-%d %H:%M %Z}'.strip()


def _files(name: str, picture: Picture) -> dict[str, bytes]:
    return {f'{name}.{suffix}': content for suffix, content in picture.files.items()}
