"""What a saved model looks at: attention weights of images, and the maps they make."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vit_jax.data.decode import Box, whole_box
from vit_jax.data.encoded import Encoded, FileSource
from vit_jax.data.source import DataError
from vit_jax.inference.images import Bad, unlabelled
from vit_jax.inference.saved import SavedModel
from vit_jax.models import ViT, grid_size, look_inside, patch_maps
from vit_jax.ops.attention_maps import Query
from vit_jax.ops.augment import normalise
from vit_jax.train.fill_in import input_shape

PICTURE = (224, 1600)
"""Pixels: smaller pictures are enlarged for overlays, larger ones reduced, on their longer side."""


@dataclasses.dataclass(frozen=True)
class Attention:
    """Of one image. Axes: l layers, k heads, n tokens, r rows and s columns of patches."""

    name: str
    """Of the file."""
    image: np.ndarray
    """[h, w, c], as the model takes it but for the normalisation."""
    picture: np.ndarray
    """The same part of the file in its own number of pixels."""
    weights: np.ndarray
    """float32 [l, k, n, n], query (row) to key (column)."""
    maps: np.ndarray
    """float32 [l, k, r, s]: the query's attention to every patch."""
    rollout: np.ndarray
    """float32 [r, s]: the same through all layers."""
    probabilities: np.ndarray | None
    """float32 [classes]; None without a head."""

    @property
    def average(self) -> np.ndarray:
        """float32 [r, s]: over layers and heads."""
        return self.maps.mean(axis=(0, 1))


def attention_of(
    saved: SavedModel, images: Encoded, query: Query | None = None
) -> Iterator[Attention | Bad]:
    """The attention in each image, in order; or why the image cannot be read.

    Args:
      query: whose attention; None: see `patch_maps`.

    Raises:
      ValueError: the model has no such query.
    """
    source, model = unlabelled(images, saved), saved.model
    height, width, _ = input_shape(model)
    grid = grid_size((height, width), model.patch_size)
    look = functools.partial(_look(model, saved.mean, saved.std, query, grid), saved.params)
    for index in range(len(images)):
        try:
            image, picture = _image_and_picture(source, index)
        except DataError as error:
            yield Bad.of(error, source.name(index))
            continue
        weights, maps, through, probabilities = jax.device_get(look(image[None]))
        yield Attention(source.name(index), image, picture, weights, maps, through, probabilities)


def _look(
    model: ViT,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    query: Query | None,
    grid: tuple[int, int],
) -> Any:
    """(params, images [1, h, w, c]) -> weights, maps, rollout and probabilities of the image."""

    @jax.jit
    def look(params: Any, images: Any) -> Any:
        seen = look_inside(model, {"params": params}, normalise(images, mean, std))
        maps, through = patch_maps(model, seen, grid, query)
        probabilities = None
        if seen.logits is not None and seen.logits.ndim == 2:
            probabilities = jax.nn.softmax(seen.logits.astype("float32"))[0]
        return seen.attention[:, 0], maps[:, 0], through[0], probabilities

    return look


def _image_and_picture(source: FileSource, index: int) -> tuple[np.ndarray, np.ndarray]:
    """What the model takes of a file; and the same part in about as many pixels as it has there."""
    seen: list[Box] = []

    def choose(width: int, height: int) -> Box:
        seen.append(whole_box((width, height), source.pixels))
        return seen[0]

    image = source.image(index, choose)
    left, top, right, bottom = seen[0]
    longest = max(right - left, bottom - top)
    scale = min(max(longest, PICTURE[0]), PICTURE[1]) / longest
    height, width = round((bottom - top) * scale), round((right - left) * scale)
    large = dataclasses.replace(source.pixels, height=height, width=width)
    return image, dataclasses.replace(source, pixels=large).image(index, lambda *_: seen[0])
