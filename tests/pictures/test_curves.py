"""The curves picture: what is drawn, from which rows, in which units."""

import numpy as np
import PIL.Image
import pytest
from matplotlib.colors import to_hex

from vit_jax.pictures.curves import draw_curves
from vit_jax.pictures.style import BLUE, ORANGE


def rows_of(splits=("train", "train-epoch", "eval"), epochs=3, ema=False):
    """Metrics rows as the trainer writes them: two steps an epoch, then the epoch and its eval."""
    rows = []
    for epoch in range(1, epochs + 1):
        for half in (epoch - 0.5, float(epoch)):
            rows.append(
                {"step": int(2 * half), "epoch": half, "split": "train", "loss": 3 / half}
                | {"accuracy": 0.1 * half, "learning_rate": 1e-3 * half, "gradient_norm": 1.0}
            )
        place = {"step": 2 * epoch, "epoch": float(epoch)}
        rows.append(place | {"split": "train-epoch", "loss": 2 / epoch, "accuracy": 0.2 * epoch})
        rows.append(place | {"split": "eval", "loss": 1 / epoch, "accuracy": 0.3 * epoch})
        if ema:
            rows[-1] |= {"loss_ema": 0.5 / epoch, "accuracy_ema": 0.25 * epoch}
    rows.append({"step": 6, "epoch": 3.0, "split": "test", "loss": 9.0, "accuracy": 0.99})
    return [row for row in rows if row["split"] in (*splits, "test")]


def opened(path):
    """The picture's pixels, as any reader of PNG has them."""
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(pixels, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 8).any()


def lines(axes):
    """The curves of a panel by label, in drawing order."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
    }


def test_three_panels_with_the_values_of_the_rows(tmp_path, saved_figures):
    draw_curves(rows_of(), tmp_path / "curves.png")
    pixels = opened(tmp_path / "curves.png")
    assert pixels.shape == (374, 1386, 3)  # 3.4 by 3 x 4.2 inches at 110 dots
    assert has_colour(pixels, BLUE)
    assert has_colour(pixels, ORANGE)

    ((loss, accuracy, rate),) = (figure.axes for figure in saved_figures)
    assert [axes.get_title() for axes in (loss, accuracy, rate)] == [
        "Loss",
        "Accuracy",
        "Learning rate",
    ]
    assert [axes.get_xlabel() for axes in (loss, accuracy, rate)] == ["epoch"] * 3
    steps, epochs = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0], [1.0, 2.0, 3.0]
    drawn = lines(loss)
    assert drawn["training, epoch mean"] == (epochs, pytest.approx([2, 1, 2 / 3]))
    assert drawn["held out"] == (epochs, pytest.approx([1, 1 / 2, 1 / 3]))
    drawn = lines(accuracy)  # in per cent
    assert drawn["training, epoch mean"] == (epochs, pytest.approx([20, 40, 60]))
    assert drawn["held out"] == (epochs, pytest.approx([30, 60, 90]))
    per_step = loss.lines[0], accuracy.lines[0], rate.lines[0]
    for line, expected in zip(per_step, ([3 / x for x in steps], steps, steps), strict=True):
        assert list(line.get_xdata()) == steps
        scale = {per_step[0]: 1, per_step[1]: 10, per_step[2]: 1e-3}[line]
        np.testing.assert_allclose(line.get_ydata(), np.multiply(expected, scale))
    # The test result, 99 per cent at epoch 3, is in no panel.
    assert max(max(ys, default=0) for _, ys in lines(accuracy).values()) < 99


def test_training_and_held_out_keep_their_colours(tmp_path, saved_figures):
    draw_curves(rows_of(), tmp_path / "curves.png")
    for axes in saved_figures[0].axes[:2]:
        colours = {line.get_label(): to_hex(line.get_color()) for line in axes.lines}
        assert colours["training, epoch mean"] == BLUE.lower()
        assert colours["held out"] == ORANGE.lower()


def test_the_moving_average_is_drawn_where_there_is_one(tmp_path, saved_figures):
    draw_curves(rows_of(ema=True), str(tmp_path / "curves.png"))
    loss, accuracy, _ = saved_figures[0].axes
    name = "held out (averaged weights)"
    assert lines(loss)[name] == ([1.0, 2.0, 3.0], pytest.approx([0.5, 0.25, 0.5 / 3]))
    assert lines(accuracy)[name] == ([1.0, 2.0, 3.0], pytest.approx([25, 50, 75]))
    assert "held out" not in lines(loss)
    assert name in [text.get_text() for text in loss.get_legend().get_texts()]


@pytest.mark.parametrize(
    "splits", [("train", "train-epoch"), ("train",), ("eval",), ()], ids=lambda x: "+".join(x)
)
def test_rows_that_are_missing_leave_their_curve_empty(tmp_path, saved_figures, splits):
    draw_curves(rows_of(splits), tmp_path / "curves.png")
    pixels = opened(tmp_path / "curves.png")
    assert pixels.shape == (374, 1386, 3)
    assert pixels.std() > 5  # axes and titles at least
    loss = saved_figures[0].axes[0]
    assert len(lines(loss)["held out"][0]) == (3 if "eval" in splits else 0)
    assert len(lines(loss)["training, epoch mean"][0]) == (3 if "train-epoch" in splits else 0)
    assert len(loss.lines[0].get_xdata()) == (6 if "train" in splits else 0)


def test_no_rows_at_all(tmp_path):
    draw_curves([], tmp_path / "curves.png")
    assert opened(tmp_path / "curves.png").shape == (374, 1386, 3)


@pytest.mark.parametrize(("epochs", "marker"), [(30, "o"), (31, "")])
def test_many_epochs_are_drawn_without_dots(tmp_path, saved_figures, epochs, marker):
    draw_curves(rows_of(epochs=epochs), tmp_path / "curves.png")
    markers = {line.get_label(): line.get_marker() for line in saved_figures[0].axes[0].lines[1:]}
    assert markers == {"training, epoch mean": marker, "held out": marker}


def test_an_old_picture_is_replaced(tmp_path):
    path = tmp_path / "curves.png"
    draw_curves([], path)
    before = opened(path)
    draw_curves(rows_of(), path)
    assert (opened(path) != before).any()
