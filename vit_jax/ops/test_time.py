"""Test-time augmentation: several views of each image, whose logits are averaged."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

TestTime = Literal["none", "mirror", "shifts"]
"""none; mirror: the image and its mirror image; shifts: these two, each also moved by one pixel
towards the upper left and the lower right."""


def average_over_views(
    model: Callable[[Float[Array, "b h w c"]], Float[Array, "b classes"]],
    images: Float[Array, "b h w c"],
    kind: TestTime,
) -> Float[Array, "b classes"]:
    """The model's logits, averaged over views of the images.

    Views that are not moved weigh half, those moved a quarter each, as in airbench
    (arXiv 2404.00498, section 3.5). What comes in at the edge repeats the edge.
    """
    mirrored = [images] if kind == "none" else [images, images[:, :, ::-1]]
    logits = jnp.mean(jnp.stack([model(view) for view in mirrored]), axis=0)
    if kind != "shifts":
        return logits
    moved = [shift(view, pixels) for view in mirrored for pixels in (-1, 1)]
    return (logits + jnp.mean(jnp.stack([model(view) for view in moved]), axis=0)) / 2


def shift(images: Float[Array, "b h w c"], pixels: int) -> Float[Array, "b h w c"]:
    """Move the content down and to the right by so many pixels; up and left if negative."""
    height, width = images.shape[1:3]
    margin = abs(pixels)
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    first = margin - pixels
    return padded[:, first : first + height, first : first + width]
