"""Curves of a report: the values of the rows, on axes that hold them."""

import json

import numpy as np
import pytest
from pictures.report_runs import make_run, page_of

from vit_jax.pictures.report_curves import panels, thin


def test_curves_hold_the_values_of_the_rows(tmp_path):
    page = page_of(make_run(tmp_path / "run-1"))
    figures = [attrs for attrs in page.all("svg") if attrs["class"] == "panel"]
    assert [figure["aria-label"] for figure in figures] == [
        "Loss by epoch",
        "Accuracy by epoch",
        "Learning rate by epoch",
        "Gradient norm by epoch",
    ]
    tops = [float(figure["data-y"]) for figure in figures]
    assert tops == pytest.approx([3.15, 100, 3.15e-3, 4.2])
    lines = page.all("polyline")
    assert [line["class"] for line in lines] == ["step", "epoch", "held"] * 2 + ["rate"] * 2
    expected = [[3, 1.5, 1], [2, 1, 2 / 3], [1, 0.5, 1 / 3], [20, 40, 60], [25, 50, 75]]
    expected += [[50, 75, 70], [1e-3, 2e-3, 3e-3], [4, 4, 4]]
    for line, values, top in zip(lines, expected, np.repeat(tops, [3, 3, 1, 1]), strict=True):
        places = np.array([pair.split(",") for pair in line["points"].split()], float)
        np.testing.assert_allclose(places[:, 0] * 3 / 1000, [1, 2, 3], atol=1e-4)
        np.testing.assert_allclose((1 - places[:, 1] / 1000) * top, values, atol=2e-5 * top)


def test_the_averaged_weights_are_the_held_out_ones():
    row = {"epoch": 1, "split": "eval", "loss": 2.0, "loss_ema": 1.0}
    ((curve,),) = (panel.curves for panel in panels([row]))
    assert curve == ("held out, averaged weights", "held", [(1.0, 1.0)])


@pytest.mark.parametrize("value", [0.0, 1e-12, 7e9])
def test_one_row_of_any_size_can_be_drawn(tmp_path, value):
    row = {"step": 0, "epoch": 0, "split": "train", "loss": value}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    page = page_of(tmp_path)
    assert [attrs["class"] for attrs in page.all("path") if "dots" in attrs["class"]]
    assert float(page.all("svg")[0]["data-y"]) == pytest.approx(1.05 * value or 1)


def test_long_curves_are_means_of_neighbours():
    points = [(float(i), float(i % 2)) for i in range(1300)]
    thinned, together = thin(points, most=600)
    assert (len(thinned), together) == (434, 3)
    assert thinned[0] == (1.0, pytest.approx(1 / 3))
    assert thinned[-1] == (1299.0, 1.0)
    assert thin(points[:600]) == (points[:600], 1)
    rows = [{"epoch": x, "split": "train", "loss": y} for x, y in points]
    ((curve,),) = (panel.curves for panel in panels(rows))
    assert curve.name == "training, means of 3 rows"
