"""What the first layers of a ViT have learned, as in the paper's figure 7 (arXiv 2010.11929)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from vit_jax.pictures.canvas import (
    GAP,
    MARGIN,
    Canvas,
    as_bytes,
    as_rgb,
    colour_bar,
    coloured,
    enlarged,
    line_height,
)
from vit_jax.pictures.fonts import width_of

SIDE = 880
"""Pixels the position picture aims at."""
MOST_TILES = 16
"""Positions along an axis, each of which gets a map of its own."""
FILTERS, FILTER_COLUMNS, FILTER_SIDE = 28, 7, 80
"""As many as in the paper, and pixels of the side of one."""


def draw_position_similarity(
    positions: Float[np.ndarray, "n d"], grid: tuple[int, int], path: str | Path
) -> None:
    """For each patch a small map: the cosine similarity of its position with all others, as PNG.

    Of more than 16 rows or columns of patches a regular part gets maps; the maps show all.

    Args:
      positions: of patches, row by row, without class token and registers.
      grid: rows and columns.
    """
    similarity = cosine_similarity(positions).reshape(-1, *grid)
    rows, columns = tile_places(grid[0]), tile_places(grid[1])
    cell = max(2, (SIDE // max(len(rows), len(columns)) - 4) // max(grid))
    tile, gap = (cell * grid[0], cell * grid[1]), 4
    line = line_height(8)
    beside = round(width_of(str(grid[0]), 8)) + GAP
    pitch = max(tile[1], round(width_of(str(grid[1]), 8))) + gap
    step = max(tile[0] + gap, line)
    top = MARGIN + line_height(11) + 2 * line + 2 * GAP
    left = MARGIN + beside
    width = max(left + len(columns) * pitch + MARGIN, 560)
    canvas = Canvas(top + line + len(rows) * step + MARGIN, width)

    some = len(rows) * len(columns) < grid[0] * grid[1]
    title = "Similarity of position embeddings"
    title += f", {len(rows)} x {len(columns)} of {grid[0]} x {grid[1]}" if some else ""
    canvas.write(title, MARGIN, MARGIN, points=11, width=width - 2 * MARGIN)
    below = MARGIN + line_height(11)
    text = "A map per patch (row, column): its position against that of every patch."
    canvas.write(text, below, MARGIN, width=width - 2 * MARGIN)
    canvas.write("cosine similarity  -1", below + line, MARGIN)
    bar = MARGIN + round(width_of("cosine similarity  -1", 8)) + GAP
    canvas.put(colour_bar(line - 4, 160, "viridis"), below + line + 2, bar)
    canvas.write("1", below + line, bar + 160 + GAP)
    for place, column in enumerate(columns):
        middle = left + place * pitch + tile[1] / 2
        canvas.write(str(column + 1), top, middle, align="center")
    for place, row in enumerate(rows):
        corner = top + line + place * step
        canvas.write(str(row + 1), corner + (tile[0] - line) / 2, left - GAP, align="right")
        for number, column in enumerate(columns):
            shares = (similarity[row * grid[1] + column] + 1) / 2
            canvas.put(enlarged(coloured(shares, "viridis"), *tile), corner, left + number * pitch)
    canvas.save(path)


def draw_filters(kernel: Float[np.ndarray, "ph pw c d"], path: str | Path) -> None:
    """The principal components of the patch embedding's filters as small images, as PNG.

    The share of the filters' variance that a component explains stands below it. Each component is
    scaled on its own, so that zero is mid-grey.

    Args:
      kernel: 3 channels are shown in colour, else the first in grey.
    """
    components, explained = principal_filters(kernel, FILTERS)
    height, width, channels = kernel.shape[:3]
    count = len(components)
    cell = max(1, FILTER_SIDE // max(height, width))
    tile = cell * height, cell * width
    line = line_height(8)
    columns = min(count, FILTER_COLUMNS)
    pitch = max(tile[1], round(width_of("28: 0.01 %", 8))) + GAP
    step = tile[0] + line + GAP
    top = MARGIN + line_height(11) + line + GAP
    sheet = max(2 * MARGIN + columns * pitch, 600)
    canvas = Canvas(top + -(-count // columns) * step + MARGIN - GAP, sheet)
    title = f"Patch embedding: {count} principal components of {kernel.shape[3]:,} filters"
    canvas.write(title, MARGIN, MARGIN, points=11, width=sheet - 2 * MARGIN)
    text = f"Together {_share(explained.sum())} of their variance; each has its own scale."
    if channels not in (1, 3):
        text += f" Channel 1 of {channels} is shown."
    canvas.write(text, MARGIN + line_height(11), MARGIN, width=sheet - 2 * MARGIN)
    for number in range(count):
        row, column = divmod(number, columns)
        left = MARGIN + column * pitch
        picture = as_bytes(as_rgb(centred(components[number])))
        place = top + row * step
        canvas.put(enlarged(picture, *tile), place, left + (pitch - GAP - tile[1]) // 2)
        text = f"{number + 1}: {_share(explained[number])}"
        canvas.write(text, place + tile[0], left + (pitch - GAP) / 2, align="center")
    canvas.save(path)


def cosine_similarity(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Of all pairs, in -1..1; 0 with a vector of zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 0, lengths, 1)
    return np.clip(directions @ directions.T, -1.0, 1.0)


def principal_filters(
    kernel: Float[np.ndarray, "ph pw c d"], most: int
) -> tuple[Float[np.ndarray, "m ph pw c"], Float[np.ndarray, "m"]]:
    """Principal components of d filters, and the share of the variance that each explains.

    The sign of a component, which means nothing, is such that its largest value is positive.
    """
    filters = kernel.reshape(-1, kernel.shape[-1]).T.astype(np.float64)
    if len(filters) > 1:
        filters = filters - filters.mean(axis=0)
    # The directions are eigenvectors of one of two products: the smaller is quick to take apart.
    few = len(filters) < filters.shape[1]
    variances, vectors = np.linalg.eigh(filters @ filters.T if few else filters.T @ filters)
    variances, vectors = np.maximum(variances[::-1], 0.0), vectors[:, ::-1]
    total = variances.sum()
    most = min(most, max(1, int((variances > 1e-12 * total).sum())))
    components = vectors[:, :most].T
    if few:
        components = components @ filters / np.sqrt(np.maximum(variances[:most, None], 1e-300))
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return components.reshape(-1, *kernel.shape[:3]), variances[:most] / (total or 1.0)


def centred(values: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Values in 0..1, zero at 0.5."""
    largest = np.abs(values).max()
    return 0.5 + values / (2 * largest if largest > 0 else 1.0)


def tile_places(size: int) -> list[int]:
    """All of few places along an axis, or a regular part of many that has both ends."""
    return [int(place) for place in np.linspace(0, size - 1, min(size, MOST_TILES)).round()]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.0995 else f"{100 * value:.2f} %"
