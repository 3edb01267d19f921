"""Style of all plots: colours that the colour-blind can tell apart, names, files."""

import functools
import io
import textwrap
import unicodedata
from typing import Any, NamedTuple

from metasemi_jax.errors import printable
from metasemi_jax.visualize.fonts import legible

# Okabe and Ito's eight, a brown and a purple. Seen with any of the three colour blindnesses (Machado 2009) no
# two of the ten lie closer than the closest of the eight.
COLOURS = (
    *('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442', '#000000'),
    *('#8B4513', '#4B0055'),
)
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK, BROWN, PURPLE = COLOURS
# Their number has no factor in common with the number of colours: 130 classes get different pairs.
MARKERS = 'os^DvPX*<>phd'
DISTINCT = len(COLOURS) * len(MARKERS)
FORMATS = ('png', 'pdf')
DPI = 150
LETTERS_PER_INCH = 14.5  # of small print
NAME_LETTERS = 24
POINTS_PER_INCH = 72


class Drawing(NamedTuple):
    """A plot and its caption."""

    title: str
    figure: Any  # matplotlib.figure.Figure
    caption: str


class Picture(NamedTuple):
    """A drawing as bytes."""

    title: str
    caption: str
    bare: bytes  # PNG without the caption, for a page that prints it itself
    files: dict[str, bytes]  # by `FORMATS`, caption included


def new_figure(width: float, height: float, layout: str | None = 'constrained') -> Any:
    """A Matplotlib figure, sizes in inches; without pyplot, which would keep it in memory."""
    # Matplotlib takes a second to load: not for a mistyped flag.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def render(drawing: Drawing) -> Picture:
    """The drawing in each of `FORMATS`."""
    figure = drawing.figure
    # Lay out once: each file would repeat it, and it takes longer than drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine('none')
    bare = save(figure, 'png')
    width = int(figure.get_figwidth() * LETTERS_PER_INCH)
    # The caption goes below the lowest line or letter; files are cut to their content.
    lowest = figure.get_tightbbox().ymin - 0.12
    text = textwrap.fill(plain(drawing.caption), width)
    figure.text(0.01, lowest / figure.get_figheight(), text, fontsize='small', va='top')
    return Picture(drawing.title, drawing.caption, bare, {name: save(figure, name) for name in FORMATS})


def save(figure: Any, name: str) -> bytes:
    """The figure as a file of the format `name`, cut to what is drawn."""
    file = io.BytesIO()
    figure.savefig(file, format=name, dpi=DPI, bbox_inches='tight', pad_inches=0.1)
    return file.getvalue()


def plain(text: str) -> str:
    """`text` as it is for Matplotlib, which reads formulas between dollar signs."""
    return legible(text).replace('$', r'\$')


def shown_name(name: str, letters: int = NAME_LETTERS) -> str:
    """A class or file name for a figure: on one line, not too long, its dollar signs no formula."""
    return plain(_cut(_one_line(name), letters))


def fitted_name(name: str, inches: float, points: float) -> str:
    """`shown_name` cut to what is `inches` wide in letters of `points`."""
    return wrapped_name(name, inches, points, lines=1)


def wrapped_name(name: str, inches: float, points: float, *, lines: int) -> str:
    """`shown_name` on at most `lines` lines of `inches`, cut where they do not hold it."""
    text = legible(_one_line(name))
    for letters in range(max(len(text), 3), 2, -1):
        rows = _rows(_cut(text, letters), inches * POINTS_PER_INCH, points)
        if len(rows) <= lines:
            break
    return plain('\n'.join(rows[:lines])) if text else ''


def _rows(text: str, room: float, points: float) -> list[str]:
    """`text` broken wherever a row of `room` points is full."""
    rows = []
    while text:
        count = len(text)
        while count > 1 and _width(text[:count], points) > room:
            count -= 1
        rows.append(text[:count])
        text = text[count:]
    return rows


def display_width(text: str) -> int:
    """Letters that `text` is about as wide as; a Chinese character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in text)


def tidy(axes: Any, grid: str) -> None:
    """A light grid behind the data, along 'x', 'y' or 'both'; no frame above and on the right."""
    axes.grid(axis=grid, color='0.91')
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def thousands(axis: Any) -> None:
    """Label an axis of whole numbers as 1,000 and never 0.5."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))


def _one_line(name: str) -> str:
    return ' '.join(printable(name).split())


def _cut(text: str, letters: int) -> str:
    if len(text) <= letters:
        return text
    # Both ends are kept: 'unlabeled/…/0123.png'.
    half = (letters - 1) // 2
    return f'{text[: letters - 1 - half]}…{text[-half:]}'


def _width(text: str, points: float) -> float:
    """Width of `text` in points, with the current fonts."""
    return points * sum(_letter_width(letter) for letter in text)


@functools.lru_cache(maxsize=4096)
def _letter_width(letter: str) -> float:
    """Width of `letter` over the height of its font, without kerning (less than a hundredth)."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # A space has no width of its own.
    widths = [
        text_to_path.get_text_width_height_descent(text, FontProperties(size=100), ismath=False)[0]
        for text in (f'o{letter}o', 'oo')
    ]
    return (widths[0] - widths[1]) / 100
