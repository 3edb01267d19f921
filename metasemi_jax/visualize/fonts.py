"""Fonts of this machine for characters that Matplotlib's own font lacks, as those of Chinese and Japanese."""

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from metasemi_jax.progress import logging_level

OWN = 'DejaVu Sans'  # comes with Matplotlib
# Fonts that draw a box, or nothing, for every character.
PRETENDING = ('last resort', 'lastresort', 'blank')


class Fonts(NamedTuple):
    """Fonts that together draw a text."""

    families: tuple[str, ...]  # beside `OWN`, in the order in which they are tried
    absent: frozenset[str]  # characters that no font here has


@contextlib.contextmanager
def drawing_fonts(texts: Iterable[str]) -> Iterator[None]:
    """Inside the block plots draw `texts` with fonts of this machine that have their characters."""
    import matplotlib

    with matplotlib.rc_context({'font.family': [OWN, *fonts_for(''.join(texts)).families]}):
        yield


def fonts_for(text: str) -> Fonts:
    """The fewest families that together have the characters of `text`, the common ones first."""
    return _fonts_for(frozenset(c for c in text if c.isprintable() and not c.isspace()))


@functools.lru_cache(maxsize=4096)
def _fonts_for(characters: frozenset[str]) -> Fonts:
    missing = {c for c in characters if not _has(_own_font(), c)} if characters else set()
    families = []
    while missing:
        # Opened one by one: most machines have hundreds.
        found = max(_installed(), key=lambda font: sum(_has(font[1], c) for c in missing), default=None)
        covered = {c for c in missing if found and _has(found[1], c)}
        if not covered:
            break
        families.append(found[0])
        missing -= covered
    return Fonts(tuple(families), frozenset(missing))


def legible(text: str) -> str:
    """`text` with a question mark in a box for every character that no font here has."""
    absent = fonts_for(text).absent
    return ''.join('\ufffd' if c in absent else c for c in text)


def drawable_classes(class_names: Iterable[str]) -> list[str]:
    """`class_names`, with 'class 3' for the fourth if no font here can draw it."""
    names = list(class_names)
    return [f'class {i}' if fonts_for(name).absent else name for i, name in enumerate(names)]


def _has(font: Any, character: str) -> bool:
    return font.get_char_index(ord(character)) != 0


@functools.cache
def _own_font() -> Any:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont(OWN))


@functools.cache
def _installed() -> list[tuple[str, Any]]:
    """(family, font) of every upright scalable font, plain ones first."""
    from matplotlib.font_manager import findSystemFonts, fontManager, get_font

    listed = {entry.fname for entry in fontManager.ttflist}
    # Matplotlib keeps its list from the day it was first used: fonts installed since are not in it.
    for path in findSystemFonts():
        if path not in listed:
            with contextlib.suppress(Exception), logging_level('matplotlib.font_manager', logging.CRITICAL):
                fontManager.addfont(path)
    entries = [
        entry
        for entry in fontManager.ttflist
        if entry.style == 'normal' and not any(word in entry.name.lower() for word in PRETENDING)
    ]
    entries.sort(key=lambda e: (abs(_weight(e.weight) - 400), 'Serif' in e.name, 'Mono' in e.name, e.name))
    fonts = {}
    for entry in entries:
        # Some fonts of pictures, such as emoji, cannot be opened.
        with contextlib.suppress(Exception):
            font = get_font(entry.fname)
            if font.scalable and entry.name not in fonts:
                fonts[entry.name] = font
    return list(fonts.items())


def _weight(weight: str | int) -> int:
    from matplotlib.font_manager import weight_dict

    return weight if isinstance(weight, int) else weight_dict.get(weight, 400)
