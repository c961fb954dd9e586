"""A sheet of pixels: images and maps at whole pixels, so that none is blurred, and text.

One picture of hundreds of panels costs no more than one image and its labels.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Num, UInt8

from vit_jax.ops.resample import Interpolation, resize_matrix
from vit_jax.pictures.fonts import DPI, families, shorten

SMALL = 64
"""Pixels up to which the sides of an image are drawn with sharp pixels."""
INK, FAINT, NOTHING, WHITE = "#222222", "#E4E4E4", "#C8C8C8", "#FFFFFF"
"""Of text, of thin lines, of what has no value, and of the sheet."""
MARGIN = 14
"""Pixels around a picture."""
GAP = 8
"""Pixels between panels."""


def line_height(points: float) -> int:
    """Pixels from one line of text to the next."""
    return round(1.3 * points * DPI / 72)


@dataclasses.dataclass
class Canvas:
    """A white sheet; places in pixels from the left and the top, y and x as in arrays."""

    height: int
    width: int

    def __post_init__(self) -> None:
        self.pixels = np.full((self.height, self.width, 3), 255, np.uint8)
        self.texts: list[tuple[float, float, str, dict[str, Any]]] = []
        """Left or middle or right end, baseline, text, and how it is drawn."""

    def put(
        self, image: UInt8[np.ndarray, "h w 3"], top: int, left: int, edge: str | None = None
    ) -> None:
        """Copy an image, whole, with a line of one pixel around it in the colour `edge`."""
        height, width, _ = image.shape
        assert 0 <= top <= self.height - height, "beyond the sheet"
        assert 0 <= left <= self.width - width, "beyond the sheet"
        if edge is not None:
            self.fill(top - 1, left - 1, height + 2, width + 2, edge)
        self.pixels[top : top + height, left : left + width] = image

    def fill(self, top: int, left: int, height: int, width: int, colour: str) -> None:
        """A rectangle of one colour ("#rrggbb")."""
        self.pixels[top : top + height, left : left + width] = rgb(colour)

    def write(
        self,
        text: str,
        top: float,
        left: float,
        *,
        points: float = 8,
        width: float = 1e9,
        align: Literal["left", "center", "right"] = "left",
        colour: str = INK,
    ) -> None:
        """A line of text below `top`, cut with "…" where wider than `width`.

        Args:
          left: the end or middle of the text with align="right" or "center".
        """
        text = shorten(text, points, width)
        if not text:
            return
        look = {"fontsize": points, "ha": align, "color": colour, "fontfamily": families(text)}
        self.texts.append((left, top + round(points * DPI / 72), text, look))

    def save(self, path: str | Path) -> None:
        """Write the sheet as PNG of exactly its size."""
        from matplotlib.image import imsave

        sheet = self.pixels
        if self.texts:
            ink = self._ink()
            inked = ink[..., 3] > 0
            cover = ink[inked, 3:] / np.float32(255)
            sheet = sheet.copy()
            sheet[inked] = np.round((1 - cover) * sheet[inked] + cover * ink[inked, :3])
        imsave(path, sheet, format="png", pil_kwargs={"compress_level": 4})

    def _ink(self) -> np.ndarray:
        """The text alone: uint8 [height, width, 4], the last channel saying where there is any."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A hundredth of a pixel more, since the sizes are cut to whole numbers.
        size = ((self.width + 0.01) / DPI, (self.height + 0.01) / DPI)
        fig = Figure(figsize=size, dpi=DPI, facecolor="none")
        for left, baseline, text, look in self.texts:
            fig.text(left / self.width, 1 - baseline / self.height, text, parse_math=False, **look)
        agg = FigureCanvasAgg(fig)
        agg.draw()
        return np.asarray(agg.buffer_rgba())


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#0072B2" -> (0, 114, 178)."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return red, green, blue


def as_rgb(image: Num[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 3"]:
    """An image in 0..1 or uint8 as colours in 0..1; of other than 3 channels the first, in grey."""
    image = image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    image = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.clip(np.nan_to_num(image), 0.0, 1.0)


def channel_note(channels: int) -> str:
    """What a title adds where `as_rgb` leaves channels out."""
    return "" if channels in (1, 3) else f" (channel 1 of {channels})"


def as_bytes(image: Float[np.ndarray, "*any 3"]) -> UInt8[np.ndarray, "*any 3"]:
    """Colours in 0..1 as uint8."""
    return np.round(255 * image).astype(np.uint8)


def fitted(shape: tuple[int, int], side: int, cells: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Height and width of an image of `shape` that fits a square of about `side` pixels.

    They are multiples of `cells`, and of a small image's own pixels, so that those are equal.
    """
    scale = side / max(shape)
    whole = all(size % parts == 0 for size, parts in zip(shape, cells, strict=True))
    units = shape if max(shape) <= SMALL and whole else cells
    height, width = (
        max(1, round(size * scale / unit)) * unit for size, unit in zip(shape, units, strict=True)
    )
    return height, width


def resized(image: Float[np.ndarray, "h w 3"], height: int, width: int) -> np.ndarray:
    """An image in 0..1 at another size, in 0..1 [height, width, 3]; sharp pixels where small."""
    if image.shape[:2] == (height, width):
        return image
    if max(image.shape[:2]) <= SMALL and height >= image.shape[0] and width >= image.shape[1]:
        return enlarged(image, height, width)
    return np.clip(interpolated(image, height, width, "bicubic_antialias"), 0.0, 1.0)


def interpolated(
    image: Float[np.ndarray, "h w *c"], height: int, width: int, interpolation: Interpolation
) -> np.ndarray:
    """An image or map at another size."""
    down = resize_matrix(image.shape[0], height, interpolation).astype(np.float32)
    across = resize_matrix(image.shape[1], width, interpolation).astype(np.float32)
    # Axis by axis: two products of matrices.
    rows = np.tensordot(down, image.astype(np.float32), axes=1)
    return np.moveaxis(np.tensordot(across, rows, axes=(1, 1)), 0, 1)


def enlarged(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel of [h, w, ...] as a sharp rectangle."""
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return image[rows[:, None], columns[None]]


def stretched(
    values: Num[np.ndarray, "*any r s"], top: float = 1.0
) -> Float[np.ndarray, "*any r s"]:
    """Each map from 0 (its least value) to 1; 0 where all are equal, NaN stays.

    Args:
      top: the share of values that get less than 1; the others, the largest, all get 1.
    """
    shares = np.full(values.shape, np.nan)
    for index in np.ndindex(values.shape[:-2]):
        finite = np.isfinite(values[index])
        known = values[index][finite].astype(np.float64)
        if known.size:
            low = known.min()
            span = np.quantile(known, top, method="higher") - low
            # Rounding errors of an even map are no pattern.
            even = span <= 1e-5 * abs(known).max()
            shares[index][finite] = 0.0 if even else np.minimum((known - low) / span, 1.0)
    return shares


def colours(name: str) -> UInt8[np.ndarray, "256 3"]:
    """A colour map of matplotlib's, from the lowest to the highest value."""
    from matplotlib import colormaps

    return as_bytes(colormaps[name](np.arange(256))[:, :3])


def coloured(shares: Float[np.ndarray, "*any"], name: str) -> UInt8[np.ndarray, "*any 3"]:
    """Values in 0..1 in a colour map of matplotlib's; grey where there is none (NaN)."""
    known = np.isfinite(shares)
    picture = colours(name)[np.round(255 * np.where(known, shares, 0.0)).astype(int)]
    picture[~known] = rgb(NOTHING)
    return picture


def colour_bar(height: int, width: int, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """From the lowest (left) to the highest value."""
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, width), (height, width))
    return coloured(ramp, name)
