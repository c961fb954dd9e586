"""What a model is given: a batch of training, and one image in its patches."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num

from vit_jax.pictures.canvas import (
    FAINT,
    GAP,
    INK,
    MARGIN,
    Canvas,
    as_bytes,
    as_rgb,
    channel_note,
    fitted,
    line_height,
    resized,
)
from vit_jax.pictures.fonts import shorten, width_of

MOST_IMAGES, COLUMNS = 32, 8
"""In a mosaic, and in a row of it."""
TILE, BIG = 124, 336
"""Pixels: the side of an image in a mosaic, and of one that is cut into patches."""
MOST_NUMBERED = 64
"""Patches up to which they are numbered."""


def draw_batch(
    images: Num[np.ndarray, "n h w c"],
    labels: Sequence[str],
    path: str | Path,
    title: str = "A training batch as the model sees it",
) -> None:
    """A mosaic of images with a label below each, as PNG; of more than 32 the first.

    Args:
      images: in 0..1 or uint8, normalisation undone.
      labels: as in "cat" or "cat 0.7 + dog 0.3".
    """
    shown = min(len(images), MOST_IMAGES)
    if shown < len(images):
        title += f": {shown} of {len(images):,} images"
    mosaic(
        images[:shown],
        [[(line, INK) for line in label_lines(label, TILE)] for label in labels[:shown]],
        path,
        title + channel_note(images.shape[-1]),
    )


def mosaic(
    images: Num[np.ndarray, "n h w c"],
    lines: Sequence[Sequence[tuple[str, str]]],
    path: str | Path,
    title: str,
    frames: Sequence[str] | None = None,
) -> None:
    """Images in rows of eight, as PNG, the title above them.

    Args:
      lines: below each image, text and colour.
      frames: colours of a line around each.
    """
    tile = fitted(images.shape[1:3], TILE)
    pitch = max(tile[1], TILE) + GAP
    columns = max(1, min(COLUMNS, len(images)))
    rows = -(-len(images) // columns)
    below = line_height(8) * max([0, *map(len, lines)]) + GAP
    # A title of usual length fits above a single image too.
    room = max(columns * pitch, min(int(width_of(title, 11)) + 1 + GAP, COLUMNS * pitch))
    first = MARGIN + line_height(11) + GAP
    canvas = Canvas(first + rows * (tile[0] + below) + MARGIN - GAP, 2 * MARGIN - GAP + room)
    canvas.write(title, MARGIN, MARGIN, points=11, width=room - GAP)
    edges = frames or [FAINT] * len(images)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = first + row * (tile[0] + below)
        left = MARGIN + column * pitch
        inside = left + (pitch - GAP - tile[1]) // 2
        if frames is not None:
            canvas.fill(top - 3, inside - 3, tile[0] + 6, tile[1] + 6, frames[index])
        canvas.put(as_bytes(resized(as_rgb(image), *tile)), top, inside, edges[index])
        for number, (text, colour) in enumerate(lines[index]):
            below_image = top + tile[0] + 2 + number * line_height(8)
            middle = left + (pitch - GAP) / 2
            canvas.write(text, below_image, middle, align="center", width=pitch - 2, colour=colour)
    canvas.save(path)


def label_lines(label: str, width: float, points: float = 8) -> list[str]:
    """A label in one line, or where it is too wide in a line for each of its parts.

    Names are cut, the shares behind them are not.
    """
    parts = [label] if width_of(shorten(label, points, 1e9), points) <= width else []
    parts = parts or label.split(" + ")
    lines = []
    for number, part in enumerate(parts):
        share = re.search(r" [\d.]+$", part)
        end = share.start() if share else len(part)
        plus = " +" if number < len(parts) - 1 else ""
        lines.append(shorten(part[:end], points, width, keep=part[end:] + plus))
    return lines


def draw_patches(
    image: Num[np.ndarray, "h w c"], patch_size: tuple[int, int], path: str | Path
) -> None:
    """An image, and beside it the same cut into patches, as PNG.

    Up to 64 patches are numbered in the order in which the model reads them.

    Args:
      image: float in 0..1, or uint8.

    Raises:
      ValueError: the image is not made of whole patches.
    """
    height, width, channels = image.shape
    if height % patch_size[0] or width % patch_size[1]:
        raise ValueError(
            f"an image of {height}x{width} is not made of whole patches of "
            f"{patch_size[0]}x{patch_size[1]}"
        )
    rows, columns = height // patch_size[0], width // patch_size[1]
    numbered = rows * columns <= MOST_NUMBERED
    big = fitted((height, width), BIG, (rows, columns))
    cell = big[0] // rows, big[1] // columns
    line = line_height(8)
    gaps = (line, GAP) if numbered else (3, 3)
    across = max(cell[1], round(width_of(str(MOST_NUMBERED), 8)) if numbered else 0) + gaps[1]

    texts = (
        f"image, {height} x {width} pixels{channel_note(channels)}",
        f"{rows} x {columns} patches of {patch_size[0]} x {patch_size[1]} pixels"
        + (", in reading order" if numbered else ""),
    )
    left = MARGIN + max(big[1], round(width_of(texts[0], 9))) + 3 * GAP
    top = MARGIN + line_height(9) + 2
    canvas = Canvas(
        top + rows * (cell[0] + gaps[0]) + MARGIN,
        left + max(columns * across, round(width_of(texts[1], 9))) + MARGIN,
    )
    canvas.write(texts[0], MARGIN, MARGIN, points=9)
    canvas.write(texts[1], MARGIN, left, points=9)
    picture = as_bytes(resized(as_rgb(image), *big))
    canvas.put(picture, top, MARGIN, FAINT)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        patch = picture[row * cell[0] : (row + 1) * cell[0]]
        patch = patch[:, column * cell[1] : (column + 1) * cell[1]]
        place = top + row * (cell[0] + gaps[0]), left + column * across
        canvas.put(patch, *place, FAINT)
        if numbered:
            middle = place[1] + cell[1] / 2
            canvas.write(str(number + 1), place[0] + cell[0], middle, align="center")
    canvas.save(path)
