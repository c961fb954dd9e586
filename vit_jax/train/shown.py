"""What the pictures of a run show: images as they can be shown, and what a model makes of them."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import Config
from vit_jax.data.feeds import AnySource
from vit_jax.data.source import DataError, Example
from vit_jax.models import grid_size, look_inside, patch_maps
from vit_jax.ops.augment import normalise, unit_range
from vit_jax.train.fill_in import input_shape

BATCH = 128
"""Images that are predicted at once."""


def visible(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Images [b, h, w, c] as float in 0..1, as they can be shown; of floats, the range is theirs.

    Args:
      dtype: of the images as they were read, before any augmentation.
    """
    if np.dtype(dtype).kind != "f":
        return np.clip(np.asarray(unit_range(jnp.asarray(images))), 0, 1)
    low, high = float(images.min()), float(images.max())
    return (images - low) / max(high - low, 1e-12)


def mixed_names(names: Sequence[str], label: int, partner: int, weight: float) -> str:
    """ "cat", or what a mixed image is made of: "cat 0.70 + dog 0.30"."""
    if label == partner or weight > 0.995:
        return names[label]
    if weight < 0.005:
        return names[partner]
    return f"{names[label]} {weight:.2f} + {names[partner]} {1 - weight:.2f}"


def readable(source: AnySource, indices: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Those of the indices whose files hold a picture, and their images [m, h, w, c]."""
    found = {index: example for index in indices if (example := _example(source, index))}
    images = [example["image"] for example in found.values()]
    return list(found), np.stack(images) if images else _none_of(source)


def attention_maps(config: Config, params: Any, images: Any) -> Any:
    """Average [m, r, s], rollout [m, r, s] and the last layer's heads [m, k, r, s] of images.

    Whose attention says `patch_maps`; r rows and s columns of patches. May run inside jit.
    """
    model, data = config.model, config.data
    height, width, _ = input_shape(model)
    grid = grid_size((height, width), model.patch_size)
    assert data.mean is not None, "filled in"
    assert data.std is not None, "filled in"
    images = normalise(images, data.mean, data.std)
    seen = look_inside(model, {"params": params}, images)
    maps, through = patch_maps(model, seen, grid)
    return maps.mean(axis=(0, 2)), through, maps[-1]


def predictions_on(
    config: Config, params: Any, source: AnySource, indices: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices whose files hold a picture, the predictions for them, and their probabilities."""
    model, data = config.model, config.data

    @jax.jit
    def probabilities(params: Any, images: Any) -> jax.Array:
        images = normalise(images, cast(Any, data.mean), cast(Any, data.std))
        logits = cast(jax.Array, model.apply({"params": params}, images))
        return jax.nn.softmax(logits.astype(jnp.float32))

    there, outputs = [], [np.zeros((0, len(source.class_names)), np.float32)]
    size = min(BATCH, len(indices))
    for start in range(0, len(indices), max(size, 1)):
        part, images = readable(source, indices[start : start + size])
        if part:
            padded = np.pad(images, [(0, size - len(part)), (0, 0), (0, 0), (0, 0)])
            there += part
            outputs.append(np.asarray(probabilities(params, padded))[: len(part)])
    found = np.concatenate(outputs)
    return np.array(there, int), found.argmax(axis=1), found.max(axis=1)


def _none_of(source: AnySource) -> np.ndarray:
    return np.zeros((0, *source.image_shape), source.dtype)


def _example(source: AnySource, index: int) -> Example | None:
    """None where the file holds no picture, which is said where an evaluation meets it."""
    if index in getattr(source, "bad", ()):
        return None
    try:
        return source[index]
    except DataError:
        return None
