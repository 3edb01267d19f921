"""The paper's Figure 3: the features of labeled, unlabeled and test images in the plane, by class."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.visualize.style import (
    COLOURS,
    DISTINCT,
    MARKERS,
    Drawing,
    display_width,
    new_figure,
    plain,
    shown_name,
)

PANEL_INCHES = 3.3
LEGEND_BESIDE = 14  # entries that a row of panels is high enough for; more stand below
LABELED = 'labeled image'
MANY_LABELED = 200  # drawn smaller, or they would hide the others


class EmbeddedPool(NamedTuple):
    """The drawn images of one kind, n of them."""

    name: str  # 'labeled', 'unlabeled', 'test', 'validation'
    total: int  # images that there are, drawn or not
    points: np.ndarray  # float [n, 2]
    classes: np.ndarray  # int [n]: the true class, or where it is not known the predicted one
    known: np.ndarray  # bool [n]


class TsneRow(NamedTuple):
    """One run."""

    name: str
    pools: list[EmbeddedPool]


def draw_tsne(rows: Sequence[TsneRow], class_names: Sequence[str], *, seed: int) -> Drawing:
    """A row of panels for each run: every kind of images, and all together."""
    kinds = list(dict.fromkeys(pool.name for row in rows for pool in row.pools))
    present = sorted({int(k) for row in rows for pool in row.pools for k in pool.classes})
    named = present if len(class_names) <= DISTINCT else []
    entries = {label: shown_name(class_names[label]) for label in named}
    panels, legend, columns = _layout(len(rows), len(kinds) + 1, list(entries.values()))
    for axes, row in zip(panels, rows, strict=True):
        _draw_row(axes, row, kinds)
        if len(rows) > 1:
            name = textwrap.fill(plain(row.name), 34)
            axes[0].set_ylabel(f'{name}\n\n{axes[0].get_ylabel()}')
    _add_legend(legend, entries, columns)
    return Drawing('Features (t-SNE)', legend.figure, _caption(rows, class_names, seed))


def _layout(num_rows: int, num_columns: int, names: Sequence[str]) -> tuple[list[list[Any]], Any, int]:
    """The panels by row, axes for the legend (anchored to the figure it would move in a cut), its columns."""
    heights, widths = [PANEL_INCHES + 0.3] * num_rows, [PANEL_INCHES] * num_columns
    width_of_name = 0.5 + 0.085 * max(map(display_width, [*names, LABELED]))
    beside = len(names) < LEGEND_BESIDE
    columns = 1 if beside else max(1, int(sum(widths) / width_of_name))
    if beside:
        widths.append(width_of_name)
    else:
        heights.append(0.18 * -(-(len(names) + 1) // columns))
    figure = new_figure(sum(widths), sum(heights))
    grid = figure.add_gridspec(len(heights), len(widths), height_ratios=heights, width_ratios=widths)
    panels = [[figure.add_subplot(grid[i, j]) for j in range(num_columns)] for i in range(num_rows)]
    legend = figure.add_subplot(grid[:, -1] if beside else grid[-1, :])
    legend.set_axis_off()
    return panels, legend, columns


def _draw_row(axes: Sequence[Any], row: TsneRow, kinds: Sequence[str]) -> None:
    pools = {pool.name: pool for pool in row.pools}
    # Labeled images last: they lie on top.
    together = [pools[name] for name in reversed(kinds) if name in pools]
    for panel, kind in zip(axes, [*kinds, 'all'], strict=True):
        shown = together if kind == 'all' else [pools[kind]] if kind in pools else []
        for pool in shown:
            _scatter(panel, pool)
        title = f'{"all together" if kind == "all" else kind} ({_counted(shown)})'
        if any(not pool.known.all() for pool in shown):
            some = ' where not known' if any(pool.known.any() for pool in shown) else ''
            title += f'\npredicted class{some}'
        panel.set_title(title, fontsize='medium')
        panel.set(xticks=[], yticks=[], xlabel='t-SNE dimension 1', aspect='equal')
    axes[0].set_ylabel('t-SNE dimension 2')
    points = np.concatenate([pool.points for pool in row.pools])
    # One embedding: the same place in every panel.
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = 0.54 * max(np.ptp(points, axis=0).max(), 1e-6)
    for panel in axes:
        panel.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))


def _scatter(panel: Any, pool: EmbeddedPool) -> None:
    for label in np.unique(pool.classes):
        x, y = pool.points[pool.classes == label].T
        style = _style(int(label), labeled=pool.name == 'labeled')
        if pool.name == 'labeled' and len(pool.points) > MANY_LABELED:
            style['s'] /= 2
        panel.scatter(x, y, **style)


def _style(label: int, *, labeled: bool) -> dict[str, Any]:
    style = {'color': COLOURS[label % len(COLOURS)], 'marker': MARKERS[label % len(MARKERS)]}
    # The edge shows yellow on white, and labeled images among all others.
    return style | (
        {'s': 42, 'edgecolors': 'black', 'linewidths': 1.1, 'zorder': 3}
        if labeled
        else {'s': 9, 'edgecolors': '0.35', 'linewidths': 0.15}
    )


def _counted(pools: Sequence[EmbeddedPool]) -> str:
    drawn, total = sum(len(pool.points) for pool in pools), sum(pool.total for pool in pools)
    return f'{total:,}' if drawn == total else f'{drawn:,} of {total:,}'


def _add_legend(axes: Any, names: dict[int, str], columns: int) -> None:
    from matplotlib.lines import Line2D

    def handle(style: dict[str, Any]) -> Line2D:
        edge = {'markeredgecolor': style['edgecolors'], 'markeredgewidth': max(style['linewidths'], 0.3)}
        return Line2D([], [], ls='', marker=style['marker'], color=style['color'], ms=6.5, **edge)

    handles = [handle(_style(0, labeled=True) | {'color': 'white'})]
    handles += [handle(_style(label, labeled=False)) for label in names]
    # Matplotlib leaves out what is called '_name': the names come afterwards.
    legend = axes.legend(
        handles,
        ['x'] * len(handles),
        loc='center left' if columns == 1 else 'center',
        ncols=columns,
        frameon=False,
        fontsize='small',
    )
    for text, name in zip(legend.get_texts(), [LABELED, *names.values()], strict=True):
        text.set_text(name)


def _caption(rows: Sequence[TsneRow], class_names: Sequence[str], seed: int) -> str:
    each = ' of each run' if len(rows) > 1 else ''
    runs = f': {rows[0].name}' if len(rows) == 1 else ''
    sentences = [
        f't-SNE of the features that the last layer sees{runs}. One embedding{each} for all panels (seed '
        f'{seed}), coloured by class; labeled images are large with a black edge. Distances have no unit.'
    ]
    pools = [pool for row in rows for pool in row.pools]
    if any(not pool.known.all() for pool in pools):
        sentences.append('Where the class of an image is not known, the predicted one is shown.')
    if any(len(pool.points) < pool.total for pool in pools):
        sentences.append('A random part of the images is shown, labeled ones first.')
    if len(class_names) > DISTINCT:
        sentences.append(f'Colours and shapes repeat after {DISTINCT} of the {len(class_names):,} classes.')
    return ' '.join(sentences)
