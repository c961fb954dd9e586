"""An exported file against the model it was made from."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from vit_jax.inference.saved import SavedModel
from vit_jax.train.fill_in import input_shape


def random_batches(saved: SavedModel, batch_size: Literal["symbolic"] | int) -> list[np.ndarray]:
    """Random pixels of many contrasts, as the model takes them; of several batch sizes if it can.

    Each is [b, h, w, c]. Pixels of a float model, whose range is not known, are drawn with the mean
    and standard deviation of its training images.
    """
    rng = np.random.default_rng(0)
    batches = []
    for size in (1, 4) if batch_size == "symbolic" else (batch_size,):
        noise = rng.normal(size=(size, *input_shape(saved.model)))
        if saved.dtype == "float32":
            pixels = np.array(saved.mean) + noise * np.array(saved.std)
        else:
            middle = rng.uniform(0.2, 0.8, (size, 1, 1, 1))
            contrast = rng.uniform(0.02, 0.5, (size, 1, 1, 1))
            shares = np.clip(middle + noise * contrast, 0, 1)
            pixels = np.round(shares * np.iinfo(saved.dtype).max)
        batches.append(pixels.astype(saved.dtype))
    return batches


def in_batches(images: np.ndarray, batch_size: Literal["symbolic"] | int) -> list[np.ndarray]:
    """Images [n, h, w, c] in batches as a file takes them; the last begins again at its start."""
    size = 4 if batch_size == "symbolic" else batch_size
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return [part[np.arange(size) % len(part)] for part in parts]


def largest_difference(
    run: Callable[[np.ndarray], np.ndarray],
    forward: Callable[[Any], Any],
    batches: Sequence[np.ndarray],
) -> float:
    """The largest between two functions' outputs, relative to the second's largest output.

    Infinite where shape or dtype differ, NaN where an output is.
    """
    differences, outputs = [], []
    for pixels in batches:
        expected, found = np.asarray(forward(pixels)), run(pixels)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return math.inf
        differences.append(abs(found - expected).max())
        outputs.append(abs(expected).max())
    return float(np.max(differences) / (np.max(outputs) or 1))
