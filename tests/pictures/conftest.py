"""What was drawn: the figure or the sheet behind a saved picture."""

import pytest
from matplotlib.figure import Figure

from vit_jax.pictures.canvas import Canvas


@pytest.fixture
def saved_figures(monkeypatch):
    """The figures saved during a test, in order; they are saved all the same."""
    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **options):
        figures.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


@pytest.fixture
def saved_sheets(monkeypatch):
    """The sheets saved during a test, likewise; no text of theirs is cut or on top of another."""
    sheets = []
    save = Canvas.save

    def saved(sheet, path):
        sheets.append(sheet)
        save(sheet, path)

    monkeypatch.setattr(Canvas, "save", saved)
    yield sheets
    for sheet in sheets:
        assert_readable(sheet)


def boxes_of(sheet):
    """Left, top, right, bottom of the letters of each line of text."""
    from vit_jax.pictures.fonts import DPI, width_of

    for place, baseline, text, look in sheet.texts:
        width = width_of(text, look["fontsize"])
        left = place - {"left": 0, "center": width / 2, "right": width}[look["ha"]]
        yield left, baseline - 0.75 * look["fontsize"] * DPI / 72, left + width, baseline


def assert_readable(sheet):
    boxes = list(boxes_of(sheet))
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert top >= 0
        assert right <= sheet.width
        assert bottom <= sheet.height - 3  # letters reach below the line
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            beside = one[2] <= other[0] or other[2] <= one[0]
            below = one[3] <= other[1] or other[3] <= one[1]
            assert beside or below, (sheet.texts[index], other)
    assert all(look["fontsize"] >= 8 for *_, look in sheet.texts)
