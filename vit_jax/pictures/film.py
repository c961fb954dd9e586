"""Pictures of one size as an animation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOST_FRAMES = 60
"""Longer films keep a regular part of their pictures, the first and the last among them."""
MOST_SECONDS = 30
"""A film of many pictures hurries, to last no longer than that."""


def write_gif(
    frames: Sequence[str | Path], path: str | Path, seconds: float = 0.5, hold: float = 2.0
) -> None:
    """An endless GIF of PNG files.

    Args:
      seconds: a frame lasts.
      hold: the last frame lasts.

    Raises:
      ValueError: there is no frame, or one has another size than the first.
    """
    from matplotlib.animation import PillowWriter
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    class Picture(Artist):
        """Pixels that fill the figure as they are."""

        pixels: np.ndarray

        def draw(self, renderer: Any) -> None:
            renderer.draw_image(renderer.new_gc(), 0, 0, self.pixels[::-1])

    if not frames:
        raise ValueError("no frames to make a GIF of")
    chosen = [frames[place] for place in frame_places(len(frames))]
    seconds = min(seconds, MOST_SECONDS / len(chosen))
    pixels = _pixels(chosen[0])
    height, width, _ = pixels.shape
    # A hundredth of a pixel more, since the sizes are cut to whole numbers.
    fig = Figure(figsize=((width + 0.01) / 100, (height + 0.01) / 100), dpi=100)
    picture = Picture()
    fig.add_artist(picture)
    rate: Any = 1 / seconds  # typed as whole frames a second, but used as any number
    writer = PillowWriter(fps=rate)
    with writer.saving(fig, str(path), dpi=100):
        for frame in chosen:
            picture.pixels = _pixels(frame)
            if picture.pixels.shape != pixels.shape:
                raise ValueError(f"{frame} has another size than {chosen[0]}")
            writer.grab_frame()
        for _ in range(round(hold / seconds) - 1):
            writer.grab_frame()


def frame_places(count: int) -> list[int]:
    """Which of so many pictures become frames."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, MOST_FRAMES)).round()]


def _pixels(path: str | Path) -> np.ndarray:
    """A PNG without transparency: uint8 [h, w, 4], of 32 levels per channel.

    A GIF holds 256 colours anyway, and those are found many times sooner among fewer.
    """
    from matplotlib.image import imread

    pixels = imread(path, format="png")
    opaque = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    opaque[..., :3] = np.round(255 * (pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]))
    return (opaque & 0xF8) | (opaque >> 5)
