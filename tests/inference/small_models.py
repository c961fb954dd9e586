"""Small models with random weights, and pictures for them, for the tests of this folder."""

import functools

import jax
import numpy as np
from PIL import Image

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.inference.saved import SavedModel

NAMES = ("ant", "bee", "cat")


@functools.lru_cache
def small_model(class_names=NAMES, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.25), **fields):
    """A model of 8x12 pixels whose logits differ from image to image."""
    fields = {
        "patch_size": 4,
        "width": 16,
        "depth": 1,
        "num_heads": 2,
        "num_classes": len(NAMES),
        "image_size": (8, 12),
        "channels": 3,
        "head_zero_init": False,
    } | fields
    model = ViT(**fields)
    height, width = model.image_size
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, height, width, model.channels)))
    data = DataConfig(mean=mean, std=std, image_size=model.image_size, resize="squash")
    return SavedModel(
        "small", "small", Config(model=model, data=data), variables["params"], class_names
    )


def write_pictures(folder, number, size=(12, 8)):
    """Pictures 00.png, 01.png, … of noise, each of another brightness; returns their pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (number, size[1], size[0], 3), dtype=np.uint8)
    pixels += rng.integers(0, 155, (number, 1, 1, 3), dtype=np.uint8)
    for place, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{place:02}.png")
    return pixels


def outputs_of(saved, pixels):
    """What the model computes of pixels, by the definition: `ViT.features` of normalised images."""
    images = (pixels / np.float32(255) - np.float32(saved.mean)) / np.float32(saved.std)
    apply = jax.jit(functools.partial(saved.model.apply, method="features"))
    return apply({"params": saved.params}, images)
