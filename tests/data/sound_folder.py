"""A folder of images without a fault, files with one, and the check of them."""

import io
import struct
import zlib

import numpy as np
from data.folders import save
from PIL import Image

from vit_jax.data.check import check_data
from vit_jax.data.source import DataConfig

SKIPPED = "unreadable file"
"""Part of what is said of files that on_bad_image=skip leaves out."""


def picture(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(seed=0, **options):
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, "JPEG", **options)
    return stream.getvalue()


def turned_jpeg():
    """Stored lying on its side: EXIF's orientation is 6."""
    exif = Image.Exif()
    exif[274] = 6
    return jpeg(exif=exif)


def png_that_claims(width, height):
    """A PNG of a few bytes with a header of this size."""
    png = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT"):
        png += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png


def make_sound(root):
    """12 different PNGs in train/a, 10 in train/b, 2 in val/a, 3 in val/b."""
    seed = 0
    for folder, size in (("train/a", 12), ("train/b", 10), ("val/a", 2), ("val/b", 3)):
        for number in range(size):
            save(root / folder / f"{number:02}.png", picture(seed))
            seed += 1
    return root


def config_of(root, **fields):
    splits = {"train_split": "train", "eval_split": "auto", "test_split": "auto"}
    return DataConfig(**{"name": "folder", "root": str(root), "image_size": 16} | splits | fields)


def check(root, full=True, **fields):
    return check_data(config_of(root, **fields), full)


def named(findings, text):
    """The names of the one finding whose text holds this."""
    (found,) = [finding for finding in findings if text in finding.text]
    return list(found.names)
