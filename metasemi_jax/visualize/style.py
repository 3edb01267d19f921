"""What all figures share: colours that the colour-blind can tell apart, names, and the way into files."""

import io
import os
import textwrap
import warnings
from typing import Any, NamedTuple

# Okabe and Ito's eight, a brown and a purple. Seen with any of the three colour blindnesses (Machado 2009) no
# two of the ten lie closer than the closest of the eight.
COLOURS = (
    *('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442', '#000000'),
    *('#8B4513', '#4B0055'),
)
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK, BROWN, PURPLE = COLOURS
# As many as have no factor in common with the colours: 130 classes differ in the pair, neighbours in both.
MARKERS = 'os^DvPX*<>phd'
DISTINCT = len(COLOURS) * len(MARKERS)
FORMATS = ('png', 'pdf')
DPI = 150
LETTERS_PER_INCH = 14.5  # of small print
NAME_LETTERS = 24


class Drawing(NamedTuple):
    """A figure and what stands below it."""

    title: str
    figure: Any  # matplotlib.figure.Figure
    caption: str


class Picture(NamedTuple):
    """A drawing as bytes."""

    title: str
    caption: str
    bare: bytes  # PNG without the caption, for a page that prints it itself
    files: dict[str, bytes]  # by `FORMATS`, caption included


def new_figure(width: float, height: float) -> Any:
    """A figure of inches; without pyplot, which would keep it in memory."""
    # Matplotlib takes a second to load: not for a mistyped flag.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def render(drawing: Drawing) -> Picture:
    """The drawing in each of `FORMATS`."""
    figure = drawing.figure
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; the page in HTML shows it right.
        warnings.filterwarnings('ignore', message='.*Glyph .* missing from', category=UserWarning)
        # Laid out once: it takes longer than drawing, and each file would do it again.
        figure.draw_without_rendering()
        figure.set_layout_engine('none')
        bare = _save(figure, 'png')
        width = int(figure.get_figwidth() * LETTERS_PER_INCH)
        text = textwrap.fill(plain(drawing.caption), width)
        # Below the lowest line or letter: files are cut to what is drawn, so it can run into nothing.
        lowest = figure.get_tightbbox().ymin - 0.12
        figure.text(0.01, lowest / figure.get_figheight(), text, fontsize='small', va='top')
        return Picture(drawing.title, drawing.caption, bare, {name: _save(figure, name) for name in FORMATS})


def _save(figure: Any, name: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=name, dpi=DPI, bbox_inches='tight', pad_inches=0.1)
    return file.getvalue()


def plain(text: str) -> str:
    """`text` as it is for Matplotlib, which reads formulas between dollar signs."""
    return text.replace('$', r'\$')


def shown_name(name: str, letters: int = NAME_LETTERS) -> str:
    """A class or file name for a figure: on one line, not too long, its dollar signs no formula."""
    # A folder's name may hold bytes that are not UTF-8.
    text = ' '.join(os.fsencode(name).decode(errors='replace').split())
    if len(text) > letters:
        # Both ends tell: 'unlabeled/…/0123.png'.
        half = (letters - 1) // 2
        text = f'{text[: letters - 1 - half]}…{text[-half:]}'
    return plain(text)


def thousands(axis: Any) -> None:
    """Label an axis of whole numbers as 1,000 and never 0.5."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
