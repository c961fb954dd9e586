"""Names in all scripts: what a font has is drawn, the rest is a square, and nothing warns."""

import logging

import numpy as np
import PIL.Image
import pytest

from vit_jax.pictures import fonts
from vit_jax.pictures.canvas import Canvas
from vit_jax.pictures.confusion import draw_confusion

ONLY_STIX = "\u20dd"  # a circle around a letter; DejaVu Sans lacks it, matplotlib's STIXGeneral not


@pytest.fixture
def no_other_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_other_families", list)
    for cached in (fonts._family_of, fonts.width_of):
        cached.cache_clear()
    yield
    for cached in (fonts._family_of, fonts.width_of):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cost in $, a_b^c {x}", "cost in $, a_b^c {x}"),
        (
            "\u00e9t\u00e9 \u0416\u0443\u043a \u2713\u2717 \u2026",
            "\u00e9t\u00e9 \u0416\u0443\u043a \u2713\u2717 \u2026",
        ),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("null\x00 and bell\x07", "null and bell"),
        ("\u732b cat", "\u25a1 cat"),
        ("\U0001f41d", "\u25a1"),
        ("", ""),
    ],
)
def test_what_no_font_has_becomes_a_square(no_other_fonts, text, expected):
    assert fonts.drawable(text) == expected
    assert fonts.families(expected) == ["DejaVu Sans"]


def test_other_installed_fonts_step_in():
    assert fonts.drawable(ONLY_STIX) == ONLY_STIX
    first, second = fonts.families(f"a{ONLY_STIX}")
    assert first == "DejaVu Sans"
    assert ord(ONLY_STIX) in fonts._signs_of(second)
    assert not any(name.startswith(("Last", "cm")) for name in fonts._other_families())


@pytest.mark.parametrize(
    "name", ["\u732b", ONLY_STIX + "a", "\U0001f41d", "\u0628\u062d\u0631", "$\\frac", "a\nb"]
)
def test_drawing_any_name_does_not_warn(tmp_path, caplog, name):
    with caplog.at_level(logging.WARNING):  # where matplotlib says that a font is missing
        sheet = Canvas(40, 200)
        sheet.write(name, 5, 5)
        sheet.save(tmp_path / "a.png")
        draw_confusion(np.eye(2, dtype=np.int64), [name, "b"], tmp_path / "b.png")
    assert not caplog.records
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) < 128).any()  # something was drawn


def test_a_font_that_cannot_be_read_has_nothing(monkeypatch):
    def fail(_):
        raise RuntimeError("no such size")

    monkeypatch.setattr("matplotlib.ft2font.FT2Font", fail)
    assert fonts._signs_of.__wrapped__("DejaVu Serif") == frozenset()


def test_text_is_cut_to_its_width():
    long = "an uncommonly long name of a class"
    assert fonts.shorten(long, 8, 1e9) == long
    for width in (40, 80, 120):
        cut = fonts.shorten(long, 8, width)
        assert cut.endswith("\u2026")
        assert long.startswith(cut[:-1])
        assert fonts.width_of(cut, 8) <= width
        # One letter more would not fit.
        assert fonts.width_of(long[: len(cut) + 1] + "\u2026", 8) > width
    assert fonts.shorten(long, 8, 90, keep=" 97 %").endswith("\u2026 97 %")
    assert fonts.width_of(fonts.shorten(long, 8, 90, keep=" 97 %"), 8) <= 90
    assert fonts.shorten(long, 8, 1) == "\u2026"


def test_widths_grow_with_text_and_size():
    assert fonts.width_of("", 8) == 0
    assert fonts.width_of("mm", 8) > 1.5 * fonts.width_of("m", 8)
    assert fonts.width_of("m", 16) > 1.5 * fonts.width_of("m", 8)
