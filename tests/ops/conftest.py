"""Photographs as arrays, and what Pillow makes of them."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@functools.cache
def _pictures(source):
    """Two pictures as large as they come."""
    if source == "samples":
        sklearn = pytest.importorskip("sklearn.datasets")
        names = ("china.jpg", "flower.jpg")
        return [Image.fromarray(sklearn.load_sample_image(name)) for name in names]
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    root = Path(os.environ["VIT_JAX_TEST_DATA"]) / "hymenoptera/train"
    files = [sorted((root / insect).glob("*.jpg"))[3] for insect in ("ants", "bees")]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture
def photographs():
    """(height, width, channels, copies, source) -> uint8 [2 * copies, height, width, channels].

    Every picture `copies` times in a row; a small one is a part of a larger, so it has detail.
    """

    def make(height, width, channels=3, copies=1, source="samples"):
        mode, images = "RGB" if channels == 3 else "L", []
        for picture in _pictures(source):
            small = picture.resize((2 * width, 2 * height)).crop((0, height, width, 2 * height))
            array = np.asarray(small.convert(mode)).reshape(height, width, channels)
            images += [array] * copies
        return np.stack(images)

    return make


@pytest.fixture
def by_pillow():
    """(function, images uint8 [b h w c], values [b]) -> [b H W c] of function(picture, value)."""

    def run(function, images, *values):
        outcomes = []
        for image, *arguments in zip(images, *values, strict=True):
            picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
            array = np.asarray(function(picture, *arguments))
            outcomes.append(array.reshape(*array.shape[:2], -1))
        return np.stack(outcomes) / 255

    return run
