"""What a model takes images for: right and wrong, and the mistakes it is surest of."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from vit_jax.pictures.batch import MOST_IMAGES, TILE, mosaic
from vit_jax.pictures.canvas import INK, Canvas, channel_note
from vit_jax.pictures.fonts import shorten
from vit_jax.pictures.style import BLUE, ORANGE

RIGHT, WRONG = "\u2713", "\u2717"
"""A tick and a cross: nobody has to tell the colours apart."""


def draw_predictions(
    images: Num[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    predictions: Int[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n"],
    class_names: Sequence[str],
    path: str | Path,
    title: str = "The first held-out images",
) -> None:
    """A mosaic with the prediction below each image, as PNG; of more than 32 images the first.

    Right predictions are blue with a tick, wrong ones orange with a cross and the label.

    Args:
      images: float in 0..1, or uint8.
      probabilities: of the predicted classes, in 0..1.
    """
    shown = slice(min(len(images), MOST_IMAGES))
    images, labels, predictions = images[shown], labels[shown], predictions[shown]
    right = labels == predictions
    mosaic(
        images,
        [
            prediction_lines(label, prediction, probability, class_names)
            for label, prediction, probability in _each(labels, predictions, probabilities[shown])
        ],
        path,
        f"{title}: {right.sum()} of {len(images)} right{channel_note(images.shape[-1])}",
        [BLUE if one else ORANGE for one in right],
    )


def draw_mistakes(
    images: Num[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, "n"],
    predictions: Int[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n"],
    class_names: Sequence[str],
    path: str | Path,
    among: tuple[int, int] | None = None,
) -> None:
    """The mistakes with the highest probability, up to 32, the surest first, as PNG.

    Args:
      images: float in 0..1, or uint8; right ones are passed over.
      probabilities: of the predicted classes, in 0..1.
      among: how many mistakes there are in how many images, where those given are only some.
    """
    mistakes, total = among or (int((labels != predictions).sum()), len(images))
    chosen = surest_mistakes(labels, predictions, probabilities)
    if not chosen.size:
        canvas = Canvas(60, 420)
        canvas.write(f"No mistakes in {total:,} images", 20, 210, points=11, align="center")
        canvas.save(path)
        return
    mosaic(
        images[chosen],
        [
            prediction_lines(label, prediction, probability, class_names)
            for label, prediction, probability in _each(
                labels[chosen], predictions[chosen], probabilities[chosen]
            )
        ],
        path,
        f"The surest of {mistakes:,} mistakes in {total:,} images{channel_note(images.shape[-1])}",
        [ORANGE] * len(chosen),
    )


def surest_mistakes(
    labels: Int[np.ndarray, "n"],
    predictions: Int[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n"],
    most: int = MOST_IMAGES,
) -> Int[np.ndarray, "m"]:
    """Indices of the wrong predictions, the highest probability first; ties in order."""
    wrong = np.flatnonzero(labels != predictions)
    return wrong[np.argsort(-probabilities[wrong], kind="stable")][:most]


def prediction_lines(
    label: int, prediction: int, probability: float, class_names: Sequence[str]
) -> list[tuple[str, str]]:
    """Lines below an image, with colours: "✓ cat (97 %)", or "✗ cat (97 %)" and "label: dog"."""
    right = label == prediction
    name = f"{RIGHT if right else WRONG} {class_names[prediction]}"
    name = shorten(name, 8, TILE, keep=f" ({per_cent(probability)})")
    lines = [(name, BLUE if right else ORANGE)]
    if not right:
        lines.append((shorten(f"label: {class_names[label]}", 8, TILE), INK))
    return lines


def _each(*arrays: np.ndarray) -> Iterable[tuple[Any, ...]]:
    """Their elements together, as Python's own numbers."""
    return zip(*(array.tolist() for array in arrays), strict=True)


def per_cent(probability: float) -> str:
    """A probability in whole per cent; no more than 99 where it is not 1."""
    rounded = round(100 * probability)
    if rounded == 100 and probability < 0.9995:
        return ">99 %"
    return f"{rounded} %"
