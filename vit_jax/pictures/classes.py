"""Accuracy by class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.pictures.canvas import FAINT, GAP, INK, MARGIN, WHITE, Canvas, line_height
from vit_jax.pictures.fonts import shorten, width_of
from vit_jax.pictures.style import BLUE, GREY

MOST_BARS, ENDS = 60, 20
"""Of more classes than the first, so many worst and best are drawn."""
NAME, BAR = 240, 400
"""Pixels: names are cut to, and a bar of 100 %."""


class Row(NamedTuple):
    """A line of the picture."""

    name: str
    text: str
    accuracy: float | None
    """None: no bar."""


def draw_per_class(
    accuracy: Float[np.ndarray, "classes"],
    counts: Int[np.ndarray, "classes"],
    class_names: Sequence[str],
    path: str | Path,
) -> None:
    """A bar for each class, the worst on top, as PNG.

    Args:
      accuracy: in 0..1; of classes without images any value.
      counts: images per class.
    """
    rows = rows_of(accuracy, counts, class_names)
    names = [shorten(row.name, 8, NAME) for row in rows]
    line = line_height(8) + 2
    left = MARGIN + round(max(map(_width, names))) + GAP
    top = MARGIN + 2 * line_height(9) + GAP
    ends = [left + round(BAR * (row.accuracy or 0)) + GAP for row in rows]
    right = max(end + _width(row.text) for end, row in zip(ends, rows, strict=True))
    bottom = top + line * len(rows)
    width = max(left + BAR + 3 * GAP, round(right), 466) + MARGIN
    canvas = Canvas(bottom + line_height(8) + MARGIN, width)
    images, seen = int(counts.sum()), int((counts > 0).sum())
    canvas.write("Accuracy by class", MARGIN, MARGIN, points=11)
    if images:
        mean = float(accuracy[counts > 0].mean())
        canvas.fill(top, left + round(BAR * mean), bottom - top, 2, GREY)
        text = f"{images:,} images; mean over {seen:,} classes {100 * mean:.1f} % (line)"
        canvas.write(text, MARGIN + line_height(10), MARGIN, points=8, width=width - 2 * MARGIN)
    for share in (0, 25, 50, 75, 100):
        place = left + BAR * share // 100
        canvas.fill(top, place, bottom - top, 1, FAINT)
        canvas.write(f"{share} %", bottom + 2, place, align="center")
    for number, (row, name, end) in enumerate(zip(rows, names, ends, strict=True)):
        place = top + number * line
        canvas.write(name, place, left - GAP, align="right")
        canvas.fill(place + 2, left, line - 4, end - GAP - left, BLUE)
        # No line runs through the text.
        canvas.fill(place, end - 3, line, round(_width(row.text)) + 6, WHITE)
        canvas.write(row.text, place, end, colour=GREY if row.accuracy is None else INK)
    canvas.save(path)


def rows_of(
    accuracy: Float[np.ndarray, "classes"],
    counts: Int[np.ndarray, "classes"],
    class_names: Sequence[str],
) -> list[Row]:
    """The lines of the picture: worst first, ties in the order of labels, then those unseen."""
    seen = [int(label) for label in np.argsort(accuracy, kind="stable") if counts[label]]
    empty = [label for label in range(len(class_names)) if not counts[label]]
    bars = [
        Row(class_names[i], f"{100 * accuracy[i]:.1f} %  n={counts[i]:,}", float(accuracy[i]))
        for i in seen
    ]
    if len(class_names) <= MOST_BARS:
        return bars + [Row(class_names[label], "no images", None) for label in empty]
    between = len(bars) - 2 * ENDS
    if between > 0:
        gap = f"{between:,} classes between the {ENDS} worst and the {ENDS} best"
        bars = [*bars[:ENDS], Row("…", gap, None), *bars[-ENDS:]]
    return bars + [Row("", f"{len(empty):,} classes have no images", None)] * bool(empty)


def _width(text: str) -> float:
    return width_of(text, 8)
