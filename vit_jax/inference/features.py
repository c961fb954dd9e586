"""Features of images, by a saved model: one vector per image, and one per token."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.cache import whole_file
from vit_jax.data.source import DataError
from vit_jax.inference.images import Bad, Images, forward
from vit_jax.inference.saved import SavedModel
from vit_jax.models.patches import grid_size
from vit_jax.train.fill_in import input_shape


@dataclasses.dataclass(frozen=True)
class Features:
    """Of the images that could be read, in order."""

    pooled: np.ndarray
    """float32 [n, d]: what the head takes, or would take."""
    tokens: np.ndarray | None
    """float32 [n, t, d], the encoder's output: class token, registers, patches row by row."""
    indices: np.ndarray
    """int64 [n]: of the images among all that were given."""
    files: tuple[str, ...]
    """Their names."""
    bad: dict[str, str]
    """The others by name, and why they could not be read."""


def features_of(
    saved: SavedModel, images: Images, tokens: bool = False, batch_size: int = 64
) -> Features:
    """The features of all images that can be read; of none, where there is none.

    Args:
      tokens: those of every token as well, which take as many times the memory; see `tokens_size`.

    Raises:
      DataError: the model pools nothing, batch_size is below 1, there are no images, or no file can
        hold what the model takes.
    """
    if saved.model.pool == "none":
        raise DataError(
            f"{saved.source} has pool='none': there is no one vector for an image; in Python, "
            "saved.model.apply(variables, images, method='features') gives those of its tokens"
        )
    # Filled from the start: a list of parts would need all of it twice in the end.
    shapes: dict[str, tuple[int, ...]] = {
        "pooled": (saved.model.representation or saved.model.width,)
    }
    if tokens:
        shapes["tokens"] = _tokens_shape(saved)
    found = {name: np.empty((len(images), *shape), np.float32) for name, shape in shapes.items()}
    indices, bad = [], {}
    outputs = _pooled_and_tokens if tokens else _pooled
    for index, result in enumerate(forward(saved, images, outputs, batch_size)):
        if isinstance(result, Bad):
            bad[images.name(index)] = result.reason
            continue
        for name, array in found.items():
            array[len(indices)] = result[name]
        indices.append(index)
    names = tuple(images.name(index) for index in indices)
    found = {name: array[: len(indices)] for name, array in found.items()}
    return Features(found["pooled"], found.get("tokens"), np.array(indices, int), names, bad)


def tokens_size(saved: SavedModel, images: int) -> int:
    """Bytes of the tokens of so many images."""
    number, width = _tokens_shape(saved)
    return images * number * width * np.dtype(np.float32).itemsize


def save_features(features: Features, path: Path) -> None:
    """Write pooled, tokens where there are any, files and bad to an .npz file, whole or not at all.

    Names are text, so that nothing in the file has to be trusted: `np.load(path)` reads it all.
    """
    arrays = {"pooled": features.pooled, "tokens": features.tokens}
    names = {"files": np.array(features.files, str), "bad": np.array(list(features.bad), str)}
    there = {name: array for name, array in arrays.items() if array is not None}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **cast(Any, there), **cast(Any, names))  # typed for an option as well


def _pooled(out: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"pooled": out["pooled"].astype(jnp.float32)}


def _pooled_and_tokens(out: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return _pooled(out) | {"tokens": out["tokens"].astype(jnp.float32)}


def _tokens_shape(saved: SavedModel) -> tuple[int, int]:
    """(t, d)"""
    height, width, _ = input_shape(saved.model)
    rows, columns = grid_size((height, width), saved.model.patch_size)
    return saved.model.num_prefix_tokens + rows * columns, saved.model.width
