"""Random erasing: a rectangle of an image is painted over (arXiv 1708.04896)."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vit_jax.ops.branch import if_any

CANDIDATES = 10
"""Rectangles drawn for each image; the first that fits is used."""


def random_erasing(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: Literal["zero", "noise"] = "zero",
) -> Float[Array, "b h w c"]:
    """Paint a random rectangle over, in each image with `probability`.

    The area is uniform, the ratio of height to width log-uniform, the place uniform over those
    inside the image. A rectangle as long as a side of the image does not fit, as in timm.

    Args:
      images: normalised, so that 0 is the mean of the data.
      area: smallest and largest share of the image.
      ratio: smallest and largest height / width.
      fill: zero, or noise: N(0, 1) in each pixel and channel (many times the work).
    """
    _, height, width, channels = images.shape
    keys = jax.vmap(jax.random.split)(keys)
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2 * CANDIDATES + 3,)))(keys[:, 0])
    sides, fits = _candidates(draws[:, 3:], height, width, area, ratio)
    first = jnp.argmax(fits, axis=1)
    sides = jnp.take_along_axis(sides, first[:, None, None], axis=1)[:, 0]
    erased = (draws[:, 0] < probability) & fits.any(axis=1)
    sides = jnp.where(erased[:, None], sides, 0)
    # A draw is below 1, and so is its product with a whole number below that number.
    places = jnp.array([height, width]) - sides + 1
    corners = jnp.floor(draws[:, 1:3] * places).astype(jnp.int32)

    def paint(images):
        inside = rectangles(corners, corners + sides, (height, width, channels))
        colour = jnp.zeros((), images.dtype)
        if fill == "noise":
            normal = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))
            colour = normal(keys[:, 1]).reshape(inside.shape)
        # Rows of w c numbers: loops over c alone, which is 3, are slow on a CPU.
        return jnp.where(inside, colour, images.reshape(inside.shape)).reshape(images.shape)

    return if_any(erased, paint, images)


def rectangles(
    low: Int[Array, "b 2"], high: Int[Array, "b 2"], shape: tuple[int, int, int]
) -> Bool[Array, "b h wc"]:
    """Where row and column are from `low` to below `high`, for pixels of `shape` (h, w, c)."""
    height, width, channels = shape
    row = jnp.arange(height)[:, None]
    place = jnp.arange(width * channels)
    top, bottom = (corner[:, None, None, 0] for corner in (low, high))
    left, right = (channels * corner[:, None, None, 1] for corner in (low, high))
    return (row >= top) & (row < bottom) & (place >= left) & (place < right)


def _candidates(
    draws: Float[Array, "b 20"],
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Int[Array, "b 10 2"], Bool[Array, "b 10"]]:
    """Heights and widths in whole pixels, at least 1, and which of them fit."""
    pixels = height * width * (area[0] + (area[1] - area[0]) * draws[:, :CANDIDATES])
    low, high = map(math.log, ratio)
    root = jnp.exp((low + (high - low) * draws[:, CANDIDATES:]) / 2)
    sides = jnp.stack([jnp.sqrt(pixels) * root, jnp.sqrt(pixels) / root], axis=-1)
    sides = jnp.maximum(jnp.round(sides), 1).astype(jnp.int32)
    return sides, (sides < jnp.array([height, width])).all(axis=-1)
