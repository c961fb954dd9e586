"""Bars by class: lengths, order, numbers, and classes without images."""

import numpy as np
import pytest

from vit_jax.pictures import classes as c
from vit_jax.pictures.canvas import rgb
from vit_jax.pictures.style import BLUE


def texts_of(sheet):
    return [text for _, _, text, _ in sheet.texts]


def bars(sheet):
    """Lengths of the bars in pixels, from the top."""
    blue = (sheet.pixels == rgb(BLUE)).all(axis=-1).sum(axis=1)
    starts = np.flatnonzero((blue[1:] > 0) & (blue[:-1] == 0)) + 1
    return [int(blue[start]) for start in starts]


def test_bars_are_as_long_as_accuracies_and_the_worst_is_on_top(tmp_path, saved_sheets):
    accuracy, counts = np.array([0.75, 0.25, 0.5, np.nan]), np.array([4, 1000, 2, 0])
    c.draw_per_class(accuracy, counts, ["a_$", "b", "c", "none"], tmp_path / "a.png")
    (sheet,) = saved_sheets
    assert bars(sheet) == [100, 200, 300]
    texts = texts_of(sheet)
    assert texts[:2] == ["Accuracy by class", "1,006 images; mean over 3 classes 50.0 % (line)"]
    assert [text for text in texts if text in ("a_$", "b", "c", "none")] == [
        "b",
        "c",
        "a_$",
        "none",
    ]
    assert [text for text in texts if "n=" in text or text == "no images"] == [
        "25.0 %  n=1,000",
        "50.0 %  n=2",
        "75.0 %  n=4",
        "no images",
    ]


def test_equal_accuracies_stay_in_the_order_of_labels():
    rows = c.rows_of(np.array([1.0, 0.5, 1.0, 0.5]), np.full(4, 7), list("abcd"))
    assert [row.name for row in rows] == ["b", "d", "a", "c"]


@pytest.mark.parametrize("count", [1, 2, 60])
def test_up_to_60_classes_all_are_drawn(tmp_path, saved_sheets, count):
    names = [f"class {i} " + "x" * i for i in range(count)]
    c.draw_per_class(np.linspace(0.1, 1, count), np.full(count, 9), names, tmp_path / "a.png")
    assert len(bars(saved_sheets[0])) == count
    names = [text for text in texts_of(saved_sheets[0]) if text.startswith("class")]
    assert any(text.endswith("\u2026") for text in names) == (count == 60)


@pytest.mark.parametrize("empty", [0, 3])
def test_of_more_classes_the_ends_are_drawn_and_the_rest_is_counted(tmp_path, saved_sheets, empty):
    accuracy, counts = np.linspace(0.001, 1, 1000), np.full(1000, 50)
    counts[:empty] = 0
    c.draw_per_class(accuracy, counts, [str(i) for i in range(1000)], tmp_path / "a.png")
    rows = c.rows_of(accuracy, counts, [str(i) for i in range(1000)])
    names = [row.name for row in rows if row.accuracy is not None]
    assert names == [str(i) for i in (*range(empty, 20 + empty), *range(980, 1000))]
    assert f"{960 - empty} classes between the 20 worst and the 20 best" in texts_of(
        saved_sheets[0]
    )
    assert ("3 classes have no images" in texts_of(saved_sheets[0])) == (empty == 3)


def test_many_classes_of_which_few_have_images():
    counts = np.zeros(100, np.int64)
    counts[:30] = 1
    rows = c.rows_of(np.full(100, 0.5), counts, [str(i) for i in range(100)])
    assert len(rows) == 31
    assert rows[-1].text == "70 classes have no images"


def test_no_images_at_all(tmp_path, saved_sheets):
    c.draw_per_class(np.full(2, np.nan), np.zeros(2, np.int64), ["a", "b"], tmp_path / "a.png")
    assert bars(saved_sheets[0]) == []
    assert texts_of(saved_sheets[0]).count("no images") == 2
