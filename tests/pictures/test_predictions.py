"""Predictions below their images, and the surest mistakes, sorted."""

import numpy as np
import pytest

from vit_jax.pictures import predictions as p
from vit_jax.pictures.canvas import INK, rgb
from vit_jax.pictures.style import BLUE, ORANGE

NAMES = ["cat", "dog_$x", "a name that is far too long for the picture"]


def texts_of(sheet):
    return [text for _, _, text, _ in sheet.texts]


def some(count, size=8, channels=1):
    rng = np.random.default_rng(0)
    return (
        rng.random((count, size, size, channels)),
        rng.integers(0, 3, count),
        rng.integers(0, 3, count),
        rng.random(count),
    )


def test_right_and_wrong_differ_by_sign_and_colour(tmp_path, saved_sheets):
    images = np.full((3, 16, 16, 3), 0.5)
    labels, predictions = np.array([0, 0, 1]), np.array([0, 1, 1])
    p.draw_predictions(
        images, labels, predictions, np.array([0.974, 0.512, 1.0]), NAMES, tmp_path / "a.png"
    )
    (sheet,) = saved_sheets
    assert texts_of(sheet) == [
        "The first held-out images: 2 of 3 right",
        "\u2713 cat (97 %)",
        "\u2717 dog_$x (51 %)",
        "label: cat",
        "\u2713 dog_$x (100 %)",
    ]
    assert [look["color"] for *_, look in sheet.texts[1:]] == [BLUE, ORANGE, INK, BLUE]
    line = sheet.pixels[100]  # through the images: a frame of three pixels on each side
    assert (line == rgb(BLUE)).all(axis=-1).sum() == 12
    assert (line == rgb(ORANGE)).all(axis=-1).sum() == 6


def test_of_many_images_the_first_are_drawn(tmp_path, saved_sheets):
    images, labels, predictions, probabilities = some(100)
    p.draw_predictions(images, labels, predictions, probabilities, NAMES, tmp_path / "a.png")
    right = (labels == predictions)[:32].sum()
    assert texts_of(saved_sheets[0])[0].endswith(f": {right} of 32 right")


@pytest.mark.parametrize(("count", "channels"), [(1, 4), (3, 3), (9, 1)])
def test_mistakes_are_sorted_by_probability(tmp_path, saved_sheets, count, channels):
    images, labels, _, probabilities = some(count, channels=channels)
    p.draw_mistakes(
        images, labels, (labels + 1) % 3, probabilities, NAMES, tmp_path / "a.png", among=(70, 1234)
    )
    texts = texts_of(saved_sheets[0])
    assert texts[0].startswith("The surest of 70 mistakes in 1,234 images")
    assert texts[0].endswith("(channel 1 of 4)") == (channels == 4)
    shown = [int(text.split()[-2].strip("(")) for text in texts if text.endswith("%)")]
    assert shown == [round(100 * x) for x in sorted(probabilities, reverse=True)]


def test_no_mistakes_at_all(tmp_path, saved_sheets):
    images, labels, _, probabilities = some(2000)
    p.draw_mistakes(images, labels, labels, probabilities, NAMES, tmp_path / "a.png")
    assert texts_of(saved_sheets[0]) == ["No mistakes in 2,000 images"]


def test_the_surest_mistakes():
    labels, predictions = np.array([0, 1, 2, 0, 1, 0]), np.array([1, 1, 0, 2, 0, 1])
    probabilities = np.array([0.5, 0.99, 0.9, 0.5, 0.7, np.float32(0.1)])
    assert list(p.surest_mistakes(labels, predictions, probabilities)) == [2, 4, 0, 3, 5]
    assert list(p.surest_mistakes(labels, predictions, probabilities, most=2)) == [2, 4]
    assert not p.surest_mistakes(labels, labels, probabilities).size


def test_long_names_are_cut_and_probabilities_are_not():
    (first, colour), (second, _) = p.prediction_lines(0, 2, 0.83, NAMES)
    assert first.startswith("\u2717 a name")
    assert first.endswith("\u2026 (83 %)")
    assert colour == ORANGE
    assert second == "label: cat"
    assert p.prediction_lines(2, 0, 0.5, NAMES)[1][0].endswith("\u2026")


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0 %"), (0.126, "13 %"), (0.994, "99 %"), (0.996, ">99 %"), (0.9999, "100 %")],
)
def test_probabilities_in_per_cent(probability, text):
    assert p.per_cent(probability) == text
