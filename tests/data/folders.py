"""Folders of pictures, made by the tests of the folder source."""

import struct
import zlib

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


def png(width, height, bits, colour_type, rows):
    """A PNG by hand, for what Pillow does not write."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


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
