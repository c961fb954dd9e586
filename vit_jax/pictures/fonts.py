"""Text that can be drawn: class names come in all scripts, and a missing glyph is a warning."""

import functools
from typing import Any

FAMILY = "DejaVu Sans"
"""Comes with matplotlib, so it is everywhere."""
MISSING = "\u25a1"
"""The square that stands for a character no installed font has."""
DPI = 110
"""Of all pictures: dots per inch, for sizes of type in points."""


def drawable(text: str) -> str:
    """A line of text in which every character has a glyph in one of `families(text)`.

    White space becomes blanks, marks without a width are left out, what no font has becomes □.
    """
    kept = []
    for sign in text:
        if sign.isspace():
            kept.append(" ")
        elif _family_of(sign) is not None:
            kept.append(sign)
        elif sign.isprintable():
            kept.append(MISSING)
    return "".join(kept)


def families(text: str) -> list[str]:
    """The fonts a drawable text needs, for matplotlib's `fontfamily`; most texts need one."""
    others = {_family_of(sign) for sign in set(text)} - {None, FAMILY}
    return [FAMILY, *sorted(str(name) for name in others)]


@functools.lru_cache(maxsize=10_000)
def width_of(text: str, points: float) -> float:
    """Pixels a drawable text takes in a row."""
    from matplotlib.font_manager import FontProperties

    if not text:
        return 0.0
    font = FontProperties(family=families(text), size=points)
    return _ruler().get_text_width_height_descent(text, font, False)[0]


def shorten(text: str, points: float, width: float, keep: str = "") -> str:
    """A drawable text that is at most `width` pixels wide with `keep` at its end.

    What does not fit gives way to "…"; nothing but that, and `keep`, may be left.
    """
    text = drawable(text)
    if width_of(text + keep, points) <= width:
        return text + keep
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits, by halving
        middle = (low + high + 1) // 2
        if width_of(text[:middle].rstrip() + "…" + keep, points) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…" + keep


@functools.cache
def _ruler() -> Any:
    """What measures text."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


@functools.lru_cache(maxsize=10_000)
def _family_of(sign: str) -> str | None:
    """The font that has a glyph for the character; None if no installed one has."""
    if ord(sign) in _signs_of(FAMILY):
        return FAMILY
    return next((name for name in _other_families() if ord(sign) in _signs_of(name)), None)


@functools.cache
def _other_families() -> list[str]:
    """Installed upright fonts, without serifs first; none of code points or bare symbols."""
    from matplotlib.font_manager import fontManager

    odd = ("Last", ".", "cm", "STIXNonUnicode", "STIXSize", FAMILY)
    upright = [font for font in fontManager.ttflist if font.style == "normal"]
    names = {font.name for font in upright if font.weight in (400, "normal", "regular")}
    names = {name for name in names if not name.startswith(odd)}
    return sorted(names, key=lambda name: ("Sans" not in name and "Gothic" not in name, name))


@functools.cache
def _signs_of(family: str) -> frozenset[int]:
    """The code points a font has glyphs for; none where matplotlib cannot draw with it."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(findfont(family))
        font.set_size(8, DPI)
        return frozenset(font.get_charmap())
    except (RuntimeError, OSError):  # fonts of colour bitmaps, files that went away
        return frozenset()
