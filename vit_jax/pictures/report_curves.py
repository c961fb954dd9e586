"""The curves of a report as inline SVG, coloured by the page and readable without its script."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from vit_jax.pictures.report_facts import number

WIDTH, HEIGHT = 420, 260
"""Of a panel, in units of its own."""
LEFT, TOP, RIGHT, BOTTOM = 52, 10, 10, 36
"""Margins of the plot in its panel."""
MOST_POINTS = 600
"""Of a curve; longer ones are drawn as means of neighbours."""
DOTTED = 40
"""Curves of up to so many points have a dot at each."""


class Curve(NamedTuple):
    """One line of a panel."""

    name: str
    kind: str
    """A class of the page's style: step, epoch, held or rate."""
    points: list[tuple[float, float]]
    """(epoch, value)."""


class Panel(NamedTuple):
    """Curves over the same axes."""

    title: str
    unit: str
    top: float
    """Upper end of the value axis; the lower one is 0."""
    curves: list[Curve]


def curves_html(rows: Sequence[dict[str, Any]]) -> str:
    """The panels of metrics.jsonl's rows; empty where there is nothing to draw."""
    drawn = [_figure(panel) for panel in panels(rows)]
    return f'<div class="curves">{"".join(drawn)}</div>' if drawn else ""


def panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """Loss, accuracy, learning rate and gradient norm, those that have values."""
    evaluations = [row for row in rows if row["split"] == "eval"]
    suffix = "_ema" if any("loss_ema" in row for row in evaluations) else ""
    held_out = "held out, averaged weights" if suffix else "held out"

    def of(key: str, scale: float = 1) -> list[Curve]:
        return [
            *_curve("training", "step", rows, "train", key, scale),
            *_curve("training, epoch mean", "epoch", rows, "train-epoch", key, scale),
            *_curve(held_out, "held", rows, "eval", key + suffix, scale),
        ]

    rate = _curve("learning rate", "rate", rows, "train", "learning_rate")
    norm = _curve("gradient norm", "rate", rows, "train", "gradient_norm")
    found = [
        Panel("Loss", "cross-entropy (nats)", 0, of("loss")),
        Panel("Accuracy", "correct (%)", 100, of("accuracy", 100)),
        Panel("Learning rate", "", 0, rate),
        Panel("Gradient norm", "before clipping", 0, norm),
    ]
    return [
        panel._replace(top=panel.top or 1.05 * _highest(panel.curves) or 1.0)
        for panel in found
        if panel.curves
    ]


def _highest(curves: Sequence[Curve]) -> float:
    return max(value for curve in curves for _, value in curve.points)


def _curve(
    name: str,
    kind: str,
    rows: Sequence[dict[str, Any]],
    split: str,
    key: str,
    scale: float = 1,
) -> list[Curve]:
    """The curve of a column in a list, which is empty where the column is."""
    points = [
        (float(row["epoch"]), scale * value)
        for row in rows
        if row["split"] == split and (value := number(row.get(key))) is not None
    ]
    thinned, together = thin(points)
    if together > 1:
        name += f", means of {together} rows"
    return [Curve(name, kind, thinned)] if points else []


def thin(
    points: list[tuple[float, float]], most: int = MOST_POINTS
) -> tuple[list[tuple[float, float]], int]:
    """At most so many points, each the mean of neighbours; and how many went into each."""
    together = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + together] for i in range(0, len(points), together)]
    means = [
        (math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group))
        for group in groups
    ]
    return means, together


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers within the range: 1, 2 or 5 times a power of ten apart.

    >>> ticks(0, 10)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    >>> ticks(0, 1.3)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) <= most - 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _figure(panel: Panel) -> str:
    """One panel. The plot has 1000 x 1000 units of its own, which the script may zoom into."""
    end = max((x for curve in panel.curves for x, _ in curve.points), default=0) or 1.0
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for value in ticks(0, end):
        x = LEFT + wide * value / end
        parts.append(f'<path class="grid" d="M{x:.2f} {TOP}v{high}"/>')
        parts.append(f'<text x="{x:.2f}" y="{TOP + high + 15}" class="below">{value:g}</text>')
    for value in ticks(0, panel.top):
        y = TOP + high * (1 - value / panel.top)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.2f}h{wide}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.2f}" class="beside">{value:g}</text>')
    lines = "".join(_line(curve, end, panel.top) for curve in panel.curves)
    legend = "".join(
        f'<span class="{curve.kind}">{html.escape(curve.name)}</span>' for curve in panel.curves
    )
    # One curve alone says what it is in the title, unless it stands for several rows.
    alone = len(panel.curves) == 1 and panel.curves[0].name == panel.title.lower()
    legend = "" if alone else f'<p class="legend">{legend}</p>'
    return (
        f"<figure><figcaption><b>{panel.title}</b> <small>{panel.unit}</small></figcaption>"
        f'{legend}<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{panel.title} by epoch" data-x="{end:.10g}" data-y="{panel.top:.10g}">'
        f'<g class="axes">{"".join(parts)}</g>'
        f'<text x="{LEFT + wide / 2:g}" y="{HEIGHT - 3}" class="below">epoch</text>'
        f'<svg class="plot" x="{LEFT}" y="{TOP}" width="{wide}" height="{high}" '
        f'viewBox="0 0 1000 1000" preserveAspectRatio="none" overflow="visible">{lines}'
        "</svg></svg></figure>"
    )


def _line(curve: Curve, end: float, top: float) -> str:
    places = [(1000 * x / end, 1000 * (1 - y / top)) for x, y in curve.points]
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    line = (
        f'<polyline class="{curve.kind}" data-name="{html.escape(curve.name)}" points="{points}"/>'
    )
    if len(places) == 1 or (curve.kind in ("epoch", "held") and len(places) <= DOTTED):
        dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in places)
        line += f'<path class="dots {curve.kind}" d="{dots}"/>'
    return line
