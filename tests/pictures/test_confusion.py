"""The confusion picture: shares of the row, names, numbers, and sizes from 2 to 100 classes."""

import numpy as np
import PIL.Image
import pytest

from vit_jax.pictures.confusion import draw_confusion


def some_confusion(classes, seed=0):
    """Counts with most images right and a few anywhere else."""
    rng = np.random.default_rng(seed)
    return 50 * np.eye(classes, dtype=np.int64) + rng.integers(0, 3, (classes, classes))


def size(path):
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5  # not blank
        return image.size


def test_shares_are_in_per_cent_of_the_labels_images(tmp_path, saved_figures):
    confusion = np.array([[30, 10, 0], [0, 995, 5], [0, 0, 0]])
    draw_confusion(confusion, ["cat", "dog", "eel"], tmp_path / "a.png")
    axes = saved_figures[0].axes[0]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, [[75, 25, 0], [0, 99.5, 0.5], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 100)
    # At (prediction, label); an image is never rounded away to nothing, an empty cell stays empty.
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "75", (1, 0): "25", (1, 1): "100", (2, 1): "<1"}
    colours = {text.get_position(): text.get_color() for text in axes.texts}
    assert colours[0, 0] == "white"  # on dark blue
    assert colours[1, 0] == "black"


def test_title_axes_and_names(tmp_path, saved_figures):
    draw_confusion(np.array([[3, 1], [0, 1236]]), ["cat", "dog"], tmp_path / "a.png")
    axes = saved_figures[0].axes[0]
    assert axes.get_title() == "99.92% of 1,240 images right"
    assert axes.get_ylabel() == "label"
    assert axes.get_xlabel() == "prediction"
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("classes", "longest", "width", "height"),
    [
        # Inches at 110 dots each: a side of at least 4 and half an inch a class up to 16, 1.6
        # beside and 0.8 above it, and 0.09 a letter of the longest name.
        (2, 1, 5.69, 4.89),
        (10, 10, 7.5, 6.7),
        (10, 60, 12.0, 11.2),
        (40, 5, 18.05, 17.25),
        (41, 60, 9.6, 8.8),  # too many classes to name: one size
        (100, 12, 9.6, 8.8),
    ],
)
def test_sizes_by_number_of_classes_and_length_of_names(
    tmp_path, saved_figures, classes, longest, width, height
):
    names = [f"{number}".ljust(longest, "x") for number in range(classes)]
    draw_confusion(some_confusion(classes), names, tmp_path / "a.png")
    assert size(tmp_path / "a.png") == pytest.approx((110 * width, 110 * height), abs=1)

    figure = saved_figures[0]
    axes = figure.axes[0]
    assert np.asarray(axes.images[0].get_array()).shape == (classes, classes)
    assert bool(axes.texts) == (classes <= 40)
    if classes <= 40:
        # All names are inside the picture, however long.
        inside = figure.bbox.padded(1)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            box = label.get_window_extent()
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
            assert inside.y0 <= box.y0 <= box.y1 <= inside.y1


def test_no_images_at_all(tmp_path, saved_figures):
    draw_confusion(np.zeros((3, 3), np.int64), list("abc"), str(tmp_path / "a.png"))
    assert size(tmp_path / "a.png")[0] > 400
    assert not saved_figures[0].axes[0].texts


def test_names_with_signs_of_their_own(tmp_path, saved_figures):
    names = ["cost in $", "a_b^c", "_hidden", "50 %", ""]
    draw_confusion(some_confusion(5), names, tmp_path / "a.png")
    labels = saved_figures[0].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
