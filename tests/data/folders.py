"""Folders of pictures, made by the tests of the folder source."""

import numpy as np
from PIL import Image

from vit_jax.data.catalog import open_source
from vit_jax.data.encoded import decode_all
from vit_jax.data.source import DataConfig

RED, GREY = (200, 40, 90), 120


def save(path, content, **options):
    """Write an array or a picture; the format follows from `options` or is PNG, never the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    image = content if isinstance(content, Image.Image) else Image.fromarray(np.uint8(content))
    image.save(path, **{"format": "PNG"} | options)


def plain(value, height=4, width=4):
    """A picture of one colour: RGB for three numbers, greyscale for one."""
    return np.full((height, width, *np.shape(value)), value, np.uint8)


def make_folder(root):
    """Two classes, `a` with four pictures and `b` with two; their red channel counts from 1."""
    for number, name in enumerate(["a/4", "a/30", "a/2", "a/1", "b/y", "b/x"], start=1):
        save(root / "train" / f"{name}.png", plain((number, 0, 0)))
    return root


def opened(root, split="train", **fields):
    """A split, decoded; pictures have 4 pixels a side unless the fields say otherwise."""
    fields = {"train_split": "train", "image_size": 4} | fields
    source = open_source(DataConfig(name="folder", root=str(root), **fields), split)
    return decode_all(source, skip_bad=False)
