"""Pictures, settings and figures as one HTML file that needs no other and asks no network for anything."""

import base64
import html
import os
from collections.abc import Sequence
from typing import NamedTuple

from metasemi_jax.visualize.style import DPI, Picture

CSS_DPI = 96

# The browser is told to refuse whatever does not lie in the file. Without an icon it would ask for one.
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
  vertical-align: top;  overflow-wrap: anywhere; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-size: .9em; }}
</style>
</head>
<body>
"""


class Section(NamedTuple):
    """One run, or what is common to several."""

    heading: str
    paragraphs: Sequence[str] = ()
    results: Sequence[tuple[str, str, str]] = ()  # ('4.00%', 'test, raw weights', 'after the last step')
    pictures: Sequence[Picture] = ()
    config: Sequence[tuple[str, str]] = ()  # field, value


def html_report(title: str, sections: Sequence[Section]) -> str:
    """The page; every text is escaped, whatever characters class names and settings hold."""
    parts = [HEAD.format(title=_text(title)), f'<h1>{_text(title)}</h1>\n']
    for section in sections:
        parts += _section(section)
    return ''.join([*parts, '</body>\n</html>\n'])


def _section(section: Section) -> list[str]:
    parts = [f'<h2>{_text(section.heading)}</h2>\n']
    parts += [f'<p>{_text(paragraph)}</p>\n' for paragraph in section.paragraphs]
    if section.results:
        parts.append('<h3>Results</h3>\n<table>\n<tr><th>error</th><th>of</th><th>chosen</th></tr>\n')
        for error, which, protocol in section.results:
            parts.append(
                f'<tr><td class="number">{_text(error)}</td><td>{_text(which)}</td>'
                f'<td>{_text(protocol)}</td></tr>\n'
            )
        parts.append('</table>\n')
    parts += [_figure(picture) for picture in section.pictures]
    if section.config:
        parts.append('<h3>Settings</h3>\n<table>\n')
        parts += [
            f'<tr><td><code>{_text(field)}</code></td><td><code>{_text(value)}</code></td></tr>\n'
            for field, value in section.config
        ]
        parts.append('</table>\n')
    return parts


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.bare).decode()
    title = _text(picture.title)
    # A PNG begins with its width; this shows all of them in one scale.
    width = int.from_bytes(picture.bare[16:20]) * CSS_DPI // DPI
    return (
        f'<figure>\n<h3>{title}</h3>\n'
        f'<img alt="{title}" width="{width}" src="data:image/png;base64,{data}">\n'
        f'<figcaption>{_text(picture.caption)}</figcaption>\n</figure>\n'
    )


def _text(text: str) -> str:
    # A path may hold bytes that are not UTF-8, which the page cannot.
    return html.escape(os.fsencode(text).decode(errors='replace'))
