"""Where a model looks: maps of attention over the patches of an image.

Axes: l layers, k heads, m images, r rows and s columns of the grid of patches. The values of a map
are shares of the attention of one token; those of all patches add up to 1 or less.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from vit_jax.pictures.canvas import (
    FAINT,
    GAP,
    MARGIN,
    Canvas,
    as_bytes,
    as_rgb,
    channel_note,
    colour_bar,
    coloured,
    colours,
    enlarged,
    fitted,
    interpolated,
    line_height,
    resized,
    stretched,
)
from vit_jax.pictures.fonts import width_of

COLOURS = "viridis"
"""Perceptually uniform, and read alike by the colour-blind."""
TOP = 0.96
"""Share of patches below the brightest colour: the few that draw most would hide all others."""
SHEET, BIG = 1000, 264
"""Pixels: the width a sheet of heads aims at, and the side of a large panel."""
SMALLEST_PANEL, LARGEST_PANEL = 56, 128
"""Pixels of the side of a panel in a sheet; many heads make the figure grow instead."""

Map = Num[np.ndarray, "r s"]


def draw_attention(
    image: Num[np.ndarray, "h w c"],
    maps: Num[np.ndarray, "l k r s"],
    average: Map,
    rollout: Map,
    path: str | Path,
    title: str = "",
) -> None:
    """An image, its average attention and rollout, and below a sheet of layers x heads, as PNG.

    Args:
      image: float in 0..1, or uint8.
      average: over layers and heads.
      rollout: through all layers, `ops.attention_maps.rollout` as a map.
    """
    layers, heads, *grid = maps.shape
    big = fitted(image.shape[:2], BIG, (grid[0], grid[1]))
    panel = fitted(image.shape[:2], panel_side(heads), (grid[0], grid[1]))
    pitch = _pitch(panel[1], [f"head {heads}"])
    beside = round(width_of(f"layer {layers}", 8)) + GAP
    block = beside + heads * pitch + 2 * GAP
    blocks = blocks_of(layers, block)
    rows = -(-layers // blocks)
    big_pitch = max(big[1] + 2 * GAP, 190)
    width = 2 * MARGIN - 2 * GAP + max(blocks * block, 3 * big_pitch)

    line = line_height(8)
    top = MARGIN + (line_height(11) + GAP if title else 0)
    legend = top + 2 * line + big[0] + GAP
    sheet = legend + _LEGEND
    canvas = Canvas(sheet + line + rows * (panel[0] + line + GAP) + MARGIN - GAP, width)
    canvas.write(title, MARGIN, MARGIN, points=11, width=width - 2 * MARGIN)
    names = ("image" + channel_note(image.shape[-1]), "average of layers and heads", "rollout")
    for column, (name, values) in enumerate(zip(names, (None, average, rollout), strict=True)):
        left = MARGIN + column * big_pitch
        canvas.write(name, top, left, width=big_pitch - GAP)
        picture = as_bytes(resized(as_rgb(image), *big)) if values is None else _map(values, big)
        canvas.put(picture, top + line, left, FAINT)
        if values is not None:
            canvas.write(share_range(values) + " %", top + line + big[0], left)
    _legend(canvas, legend)
    for number in range(blocks):
        left = MARGIN + number * block
        for head in range(heads):
            middle = left + beside + (head + 0.5) * pitch
            canvas.write(f"head {head + 1}", sheet, middle, align="center")
        for row, layer in enumerate(range(number * rows, min((number + 1) * rows, layers))):
            place = sheet + line + row * (panel[0] + line + GAP)
            canvas.write(f"layer {layer + 1}", place + (panel[0] - line) / 2, left)
            _row_of_maps(canvas, maps[layer], panel, place, left + beside, pitch)
    canvas.save(path)


def draw_overlay(
    image: Num[np.ndarray, "h w c"],
    values: Map,
    path: str | Path,
    kind: Literal["light", "heat"] = "light",
) -> None:
    """An `overlay` at the image's own size, as PNG."""
    from matplotlib.image import imsave

    imsave(path, as_bytes(overlay(image, values, kind)), format="png")


def overlay(
    image: Num[np.ndarray, "h w c"], values: Map, kind: Literal["light", "heat"] = "light"
) -> Float[np.ndarray, "h w 3"]:
    """An image with a map on it, in 0..1; the map is resized by linear interpolation.

    Args:
      image: float in 0..1, or uint8.
      kind: "light" leaves bright what is attended and dims the rest; "heat" leaves alone what is
        not attended and tints the rest, up to yellow. An even map changes nothing.
    """
    height, width = image.shape[:2]
    shares = np.nan_to_num(stretched(values, TOP))
    if not shares.any():
        return as_rgb(image)
    shares = np.clip(interpolated(shares, height, width, "linear"), 0.0, 1.0)[..., None]
    if kind == "light":
        return as_rgb(image) * (0.25 + 0.75 * shares)
    heat = colours("inferno")[(255 * shares[..., 0]).astype(int)] / 255
    return as_rgb(image) * (1 - 0.75 * shares) + 0.75 * shares * heat


def draw_progress(
    images: Num[np.ndarray, "m h w c"],
    averages: Num[np.ndarray, "m r s"],
    rollouts: Num[np.ndarray, "m r s"],
    heads: Num[np.ndarray, "m k r s"],
    path: str | Path,
    title: str = "",
) -> None:
    """What a model in training attends to, as PNG: a row per image; see `progress_title`.

    The size depends on the arrays' shapes alone, so that such pictures are frames of a film.

    Args:
      images: float in 0..1, or uint8.
      averages: over layers and heads.
      heads: of the last layer.
    """
    count, number, *grid = heads.shape
    panel = fitted(images.shape[1:3], panel_side(number + 3), (grid[0], grid[1]))
    names = ["image" + channel_note(images.shape[-1]), "average", "rollout"]
    names += [f"head {head + 1}" for head in range(number)]
    pitch = _pitch(panel[1], names)
    width = 2 * MARGIN + max(len(names) * pitch, 560)
    line = line_height(8)
    top = MARGIN + line_height(11) + GAP
    step = panel[0] + line + GAP
    legend = top + line + count * step
    canvas = Canvas(legend + _LEGEND + MARGIN, width)
    canvas.write(title, MARGIN, MARGIN, points=11, width=width - 2 * MARGIN)
    for column, name in enumerate(names):
        canvas.write(name, top, MARGIN + (column + 0.5) * pitch, align="center")
    for index in range(count):
        row = top + line + index * step
        picture = as_bytes(resized(as_rgb(images[index]), *panel))
        canvas.put(picture, row, MARGIN + (pitch - panel[1]) // 2, FAINT)
        shown = np.stack([averages[index], rollouts[index], *heads[index]])
        _row_of_maps(canvas, shown, panel, row, MARGIN + pitch, pitch)
    _legend(canvas, legend, "Average of all layers and heads; heads of the last layer.")
    canvas.save(path)


def progress_title(epoch: float, accuracy: float | None = None) -> str:
    """What stands over a frame: "epoch 3, held-out accuracy 71.2 %"."""
    if accuracy is None:
        return f"epoch {epoch:g}"
    return f"epoch {epoch:g}, held-out accuracy {100 * accuracy:.1f} %"


def share_range(values: Map) -> str:
    """The least and largest value of a map in per cent: "0.02-1.4"; "-" where none is finite."""
    finite = 100 * values[np.isfinite(values)]
    if not finite.size:
        return "-"
    low, high = (_number(float(value)) for value in (finite.min(), finite.max()))
    if low == high:
        return low
    return f"{'0' if low == TINY else low}-{high}"


def panel_side(panels: int) -> int:
    """Pixels of a panel's side in a row of so many."""
    return min(max(SHEET // panels - GAP, SMALLEST_PANEL), LARGEST_PANEL)


def blocks_of(layers: int, width: int) -> int:
    """How many blocks of layers, each so wide, stand side by side in a sheet."""
    return max(1, min(SHEET // width, -(-layers // 4)))


TINY = "<0.01"
_LEGEND = 2 * line_height(8) + 2 * GAP
"""Pixels a legend takes."""


def _legend(canvas: Canvas, top: int, more: str = "") -> None:
    """The scale of all maps of a figure."""
    line = line_height(8)
    canvas.write("least", top, MARGIN)
    left = MARGIN + round(width_of("least", 8)) + GAP
    canvas.put(colour_bar(line - 4, 120, COLOURS), top + 2, left)
    text = f"most attended {100 - round(100 * TOP)} % of each map's patches"
    canvas.write(text, top, left + 120 + GAP)
    text = f"Below a map: its least-most attended patch, % of the attention. {more}"
    canvas.write(text, top + line, MARGIN, width=canvas.width - 2 * MARGIN)


def _row_of_maps(
    canvas: Canvas,
    maps: Num[np.ndarray, "k r s"],
    panel: tuple[int, int],
    top: int,
    left: int,
    pitch: int,
) -> None:
    """Maps side by side, the range of each below it."""
    for column, values in enumerate(maps):
        place = left + column * pitch
        canvas.put(_map(values, panel), top, place + (pitch - panel[1]) // 2)
        canvas.write(share_range(values), top + panel[0], place + pitch / 2, align="center")


def _map(values: Map, size: tuple[int, int]) -> np.ndarray:
    """A map in colours, its patches as sharp rectangles."""
    return enlarged(coloured(stretched(values, TOP), COLOURS), *size)


def _pitch(width: int, texts: list[str]) -> int:
    """Pixels from a panel to the next: the panel, or the widest of what stands above and below."""
    return max(width, *(round(width_of(text, 8)) for text in (*texts, "0.01-0.99"))) + GAP


def _number(per_cent: float) -> str:
    """Two figures, as far as two decimals go."""
    for decimals, least in ((0, 9.95), (1, 0.995), (2, 0.005)):
        if per_cent >= least:
            return f"{per_cent:.{decimals}f}"
    return TINY if per_cent > 0 else "0"
