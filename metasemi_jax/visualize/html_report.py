"""Plots, settings and metrics as one HTML file that needs no other file and no network."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

from metasemi_jax.errors import printable
from metasemi_jax.visualize.style import DPI, Picture

CSS_DPI = 96

# The policy makes the browser load nothing from outside the file; without an icon it would ask for one.
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 75rem;
  margin: 2rem auto; padding: 0 1.5rem; }}
h1, h2, h3 {{ line-height: 1.25; overflow-wrap: anywhere; }}
h2 {{ margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }}
figure {{ margin: 1.5rem 0 2.5rem; }}
figure img {{ max-width: 100%; height: auto; }}
figcaption {{ max-width: 60rem; color: #444; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25rem 1.5rem .25rem 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.wide {{ overflow-x: auto; }}
.wide th, .wide td {{ overflow-wrap: normal; }}
.wide td {{ max-width: 24rem; overflow-wrap: anywhere; }}
.wide td.text {{ min-width: 4rem; }}
summary {{ cursor: pointer; margin: 1rem 0; }}
code {{ font-size: .9em; }}
@media (max-width: 40rem) {{
  body {{ margin: 1rem auto; padding: 0 .75rem; }}
  th, td {{ padding-right: .75rem; }}
  .panels img {{ max-width: 44rem; }}
}}
</style>
</head>
<body>
"""


class Table(NamedTuple):
    """Rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()  # columns that are set as numbers
    folded: bool = False  # shown on demand


class Section(NamedTuple):
    """The section of one run, or of a comparison."""

    heading: str  # '' where the title of the page says it
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    config: Sequence[tuple[str, str]] = ()  # field, value


def html_report(title: str, sections: Sequence[Section]) -> str:
    """The page; every text is escaped, whatever characters class names and settings hold."""
    parts = [HEAD.format(title=_text(title)), f'<h1>{_text(title)}</h1>\n']
    for section in sections:
        parts += _section(section)
    return ''.join([*parts, '</body>\n</html>\n'])


def is_report(start: bytes) -> bool:
    """Whether a file that begins with `start` is such a page, of whatever version."""
    return b"default-src 'none'; img-src data:" in start[:500]


def _section(section: Section) -> list[str]:
    parts = [f'<h2>{_text(section.heading)}</h2>\n'] if section.heading else []
    parts += [f'<p>{_text(paragraph)}</p>\n' for paragraph in section.paragraphs]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(picture) for picture in section.pictures]
    if section.config:
        parts.append('<h3>Settings</h3>\n<table>\n')
        parts += [
            f'<tr><td><code>{_text(field)}</code></td><td><code>{_text(value)}</code></td></tr>\n'
            for field, value in section.config
        ]
        parts.append('</table>\n')
    return parts


def _table(table: Table) -> str:
    head = ''.join(f'<th>{_text(cell)}</th>' for cell in table.header)
    rows = [''.join(_cell(cell, i in table.numbers) for i, cell in enumerate(row)) for row in table.rows]
    lines = ''.join(f'<tr>{row}</tr>\n' for row in [head, *rows])
    text = f'<div class="wide"><table>\n{lines}</table></div>\n'
    if table.folded:
        return f'<details><summary>{_text(table.title)}</summary>\n{text}</details>\n'
    return f'<h3>{_text(table.title)}</h3>\n{text}'


def _cell(text: str, number: bool) -> str:
    return f'<td class="{"number" if number else "text"}">{_text(text)}</td>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.bare).decode()
    title = _text(picture.title)
    # A PNG starts with its width in pixels; all images get one scale.
    width, height = (int.from_bytes(picture.bare[i : i + 4]) * CSS_DPI // DPI for i in (16, 20))
    # Panels side by side would be too small to read on a telephone: there they are moved along instead.
    kind = 'panels' if width > 1.8 * height else 'whole'
    return (
        f'<figure>\n<h3>{title}</h3>\n'
        f'<div class="wide {kind}">'
        f'<img alt="{title}" width="{width}" src="data:image/png;base64,{data}"></div>\n'
        f'<figcaption>{_text(picture.caption)}</figcaption>\n</figure>\n'
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
