"""The rows of a report as Markdown and as CSV."""

import csv
import io
import statistics
from collections.abc import Sequence

from metasemi_jax.report.runs import Row, spread
from metasemi_jax.results import MEDIAN_OVER, WEIGHT_PREFIXES

# Start of the first line of the Markdown.
FIRST_CELLS = (b'| test error, %', b'| validation error, %')


def error_split(rows: Sequence[Row]) -> str:
    """'test', or 'validation' where no run has a test set."""
    return 'test' if any('test_error_last' in row.errors for row in rows) else 'validation'


def columns(rows: Sequence[Row]) -> dict[str, str]:
    """The headings of the protocols that any row has, by their names in `results.json`."""
    split = error_split(rows)
    headings = {
        f'{split}_error_last': 'last step',
        f'{split}_error_median20': f'median of the last {MEDIAN_OVER}',
        f'{split}_error_best_on_validation': 'best on validation',
        f'{split}_error_best': f'best (selected on {split})',
    }
    return {name: text for name, text in headings.items() if any(name in row.errors for row in rows)}


def lines_of(rows: Sequence[Row]) -> list[tuple[str, str, Row]]:
    """(title, prefix of the metrics, row) of each line: EMA weights have lines of their own."""
    last = f'{error_split(rows)}_error_last'
    return [
        (row.name if not prefix else f'{row.name}, {weights}', prefix, row)
        for row in rows
        for prefix, weights in WEIGHT_PREFIXES.items()
        if prefix + last in row.errors
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table: mean ± standard deviation in percent, and each seed."""
    split, protocols = error_split(rows), columns(rows)
    published = any(row.published for row in rows)
    head = [f'{split} error, %', *protocols.values(), *['published'] * published, 'each seed, last step']
    table = [_line(head), '|' + '---|' * len(head)]
    for name, prefix, row in lines_of(rows):
        cells = [_mean_and_deviation(row.errors.get(prefix + protocol)) for protocol in protocols]
        if published:
            cells.append('–' if prefix or not row.published else f'{row.published.error:.2f}')
        each = ' '.join(f'{error:.1f}' for error in row.errors[f'{prefix}{split}_error_last'])
        table.append(_line([name, *cells, each]))
    return '\n'.join(table)


def notes(rows: Sequence[Row]) -> list[str]:
    """Notes below the table, as sentences."""
    seeds = [', '.join(map(str, row.seeds)) for row in rows]
    usual = statistics.mode(seeds)
    others = [f'{row.name}: {own}' for row, own in zip(rows, seeds, strict=True) if own != usual]
    several = any(len(row.seeds) > 1 for row in rows)
    what = 'Mean ± standard deviation (n - 1) over the seeds' if several else 'One seed alone:'
    sentences = [f'{what} {"; ".join([usual, *others])}.']
    if rows[0].recipe:
        sentences.append(
            f'Each method has its own recipe: the rows differ in {", ".join(rows[0].recipe)} too.'
        )
    return [*sentences, *_sources(rows)]


def _sources(rows: Sequence[Row]) -> list[str]:
    """A sentence for each source of published errors: program, network, and what they compare with."""
    sentences = []
    found = [row for row in rows if row.published]
    for source in dict.fromkeys(row.published.source for row in found):
        own = [row for row in found if row.published.source == source]
        names = ', '.join(dict.fromkeys(row.name for row in own))
        all_labels = sorted({row.published.all_labels for row in own} - {None})
        sentences.append(
            f'Published for {names}: {source.code}, {source.network}, {source.how}; compare with '
            f'"{source.column}".'
            + ''.join(f' With all labels it reports {error:.2f}.' for error in all_labels)
        )
    return sentences


def comma_separated(rows: Sequence[Row]) -> str:
    """The table as CSV: one line for each row and kind of weights, unrounded."""
    protocols = columns(rows)
    settings = list(rows[0].setting)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns_of = [f'{protocol}_{part}' for protocol in protocols for part in ('mean', 'std')]
    writer.writerow(['row', *settings, 'weights', 'n', 'seeds', *columns_of, 'published', 'published_source'])
    for _, prefix, row in lines_of(rows):
        cells = []
        for protocol in protocols:
            values = row.errors.get(prefix + protocol)
            cells += spread(values) if values else (None, None)
        weights = WEIGHT_PREFIXES[prefix].split()[0]
        own = [row.setting[name] for name in settings]
        seeds = ' '.join(map(str, row.seeds))
        published = (None, None)
        if row.published and not prefix:
            published = row.published.error, f'{row.published.source.code}, {row.published.source.network}'
        writer.writerow([row.name, *own, weights, len(row.seeds), seeds, *cells, *published])
    return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _mean_and_deviation(values: Sequence[float] | None) -> str:
    if not values:
        return '–'
    mean, std = spread(values)
    return f'{mean:.2f}' if std is None else f'{mean:.2f} ± {std:.2f}'
