"""The rows of a report as bars."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from metasemi_jax.report.runs import Row, spread
from metasemi_jax.report.table import columns, error_split, lines_of, notes
from metasemi_jax.visualize.fonts import drawing_fonts
from metasemi_jax.visualize.style import COLOURS, FORMATS, new_figure, plain, save, tidy

ONE_SEED, PUBLISHED = 'one seed', 'published'


class Bar(NamedTuple):
    """One horizontal bar."""

    place: float  # its height in the picture
    errors: list[float]  # of the seeds, percent
    published: float | None


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """The picture in each of `FORMATS`: a group of bars for each row, its seeds, the published error."""
    with drawing_fonts(row.name for row in rows):
        figure = _draw(rows)
        return {name: save(figure, name) for name in FORMATS}


def _draw(rows: Sequence[Row]) -> Any:
    protocols, lines = columns(rows), lines_of(rows)
    height = 2.2 + 0.2 * len(lines) * (len(protocols) + 1)
    figure = new_figure(7.5, height)
    axes = figure.add_subplot()
    thickness = 0.8 / len(protocols)
    for number, (protocol, heading) in enumerate(protocols.items()):
        offset = (number - (len(protocols) - 1) / 2) * thickness
        bars = [
            Bar(
                place + offset,
                row.errors[prefix + protocol],
                None if prefix or not row.published else row.published.error,
            )
            for place, (_, prefix, row) in enumerate(lines)
            if prefix + protocol in row.errors
        ]
        _draw_bars(axes, bars, 0.9 * thickness, COLOURS[number], heading)
        # Published errors are of this protocol.
        if protocol == 'test_error_best':
            _draw_published(axes, bars)
    axes.set_yticks(range(len(lines)), [textwrap.fill(plain(name), 30) for name, _, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)  # the first row on top
    axes.set_xlim(left=0)
    axes.set_xlabel(f'{error_split(rows)} error, %')
    tidy(axes, 'x')
    _add_legend(figure, axes, [*protocols.values(), ONE_SEED, PUBLISHED])
    figure.supxlabel(textwrap.fill(plain(' '.join(notes(rows))), 105), fontsize='small', x=0.02, ha='left')
    return figure


def _draw_bars(axes: Any, bars: Sequence[Bar], thickness: float, colour: str, heading: str) -> None:
    means = [spread(bar.errors).mean for bar in bars]
    axes.barh([bar.place for bar in bars], means, thickness, color=colour, label=heading)
    several = [bar for bar in bars if len(bar.errors) > 1]
    for bar in several:
        mean, std = spread(bar.errors)
        axes.errorbar(mean, bar.place, xerr=std, fmt='none', ecolor='black', elinewidth=1, capsize=2)
    seeds = [(error, bar.place) for bar in several for error in bar.errors]
    if seeds:
        style = {'s': 9, 'facecolors': 'white', 'edgecolors': 'black', 'linewidths': 0.6}
        axes.scatter(*zip(*seeds, strict=True), zorder=3, label=ONE_SEED, **style)


def _draw_published(axes: Any, bars: Sequence[Bar]) -> None:
    published = [(bar.published, bar.place) for bar in bars if bar.published is not None]
    if published:
        style = {'s': 36, 'marker': 'D', 'color': 'black', 'zorder': 4}
        axes.scatter(*zip(*published, strict=True), label=PUBLISHED, **style)


def _add_legend(figure: Any, axes: Any, order: Iterable[str]) -> None:
    """Above the axes, in this order, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    shown = [label for label in order if label in by_label]
    figure.legend(
        [by_label[label] for label in shown], shown, loc='outside upper center', ncols=3, frameon=False
    )
