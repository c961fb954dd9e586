"""The JSON beside an exported file: what goes in, what happens inside, what comes out."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import Pixels
from vit_jax.data.source import DataError
from vit_jax.inference.saved import SavedModel
from vit_jax.train.fill_in import input_shape


def card_text(
    saved: SavedModel,
    *,
    file: Mapping[str, Any],
    batch: str,
    output: tuple[str, Sequence[int]],
    checked: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """All a person needs who has the exported file and this text, as JSON.

    Args:
      file: its format, what running it takes, and the code that does.
      batch: images in a batch: a number, or the name of a free axis.
      output: its name, and its shape without the batch.
      checked: how it was compared with the model.
      versions: of the packages that wrote it.
    """
    height, width, channels = input_shape(saved.model)
    first = int(batch) if batch.isdigit() else batch
    name, shape = output
    card = {
        **file,
        "input": {
            "name": "pixels",
            "shape": [first, height, width, channels],
            "axes": "batch, height, width, channels",
            "dtype": saved.dtype,
            "range": _range(saved.dtype),
            "channels": {1: "grey", 3: "red, green, blue"}.get(channels, str(channels)),
        },
        "from_image_to_input": _preparation(saved),
        "inside": {
            "divided_by": _largest(saved.dtype),
            "mean": list(saved.mean),
            "std": list(saved.std),
            "formula": "(pixels / divided_by - mean) / std, per channel, then the model",
            "computes_in": "float32, products included, on every platform",
        },
        "output": {
            "name": name,
            "shape": [first, *shape],
            "dtype": "float32",
            "meaning": _meaning(name),
        },
        "class_names": _class_names(saved),
        "source": saved.label,
        "versions": dict(versions),
        "checked": dict(checked),
    }
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def _largest(dtype: str) -> int:
    """What pixels are divided by first."""
    return 1 if dtype == "float32" else int(np.iinfo(dtype).max)


def _range(dtype: str) -> str:
    if dtype == "float32":
        return "that of the training images"
    return f"0..{np.iinfo(dtype).max}, as decoded: not scaled, not normalised"


def _class_names(saved: SavedModel) -> list[str] | None:
    known = saved.model.num_classes is not None and saved.class_names is not None
    return list(saved.class_names or ()) if known else None


def _meaning(name: str) -> str:
    return {
        "logits": "one for each class; softmax over the last axis makes probabilities of them",
        "probabilities": "one for each class, 0..1, adding up to 1 over the last axis",
        "features": "the pooled output: the model has no head",
    }[name]


def _preparation(saved: SavedModel) -> dict[str, Any]:
    """How an image file becomes pixels: values for programs, steps for people."""
    try:
        pixels = saved.pixels()
    except DataError:
        return {"steps": ["the arrays of the training; no image file holds such pixels"]}
    return {
        "height": pixels.height,
        "width": pixels.width,
        "resize": "crop" if pixels.keep_proportions else "squash",
        "crop_fraction": pixels.crop_fraction,
        "crop_rounding": pixels.crop_rounding,
        "interpolation": pixels.interpolation,
        "background": pixels.background,
        "steps": list(_steps(pixels)),
    }


def _steps(pixels: Pixels) -> list[str]:
    """What `data.decode` does, in words that can be followed with Pillow."""
    return [
        "first frame; turn and mirror it as its EXIF orientation says",
        *_colours(pixels),
        *_box(pixels),
        f"resize the box to {pixels.width}x{pixels.height} (width x height) with an antialiased "
        f"{pixels.interpolation} filter, in one go with the cut; Pillow: image.resize((width, "
        f"height), Image.Resampling.{pixels.interpolation.upper()}, box=box)",
        {
            "uint8": "keep the bytes",
            "uint16": "round, and clip to 0..65535",
            "float32": "keep the numbers",
        }[pixels.dtype],
    ]


def _box(pixels: Pixels) -> list[str]:
    """Which part of an image is resized."""
    size, kept = f"{pixels.width}x{pixels.height}", pixels.crop_fraction
    if pixels.crop_rounding == "none":
        part = f"the largest part with the proportions of {size}"
        part = part if pixels.keep_proportions else "all of the image"
        return [f"box: {part}, its sides times {kept}, centred, in fractions of pixels"]
    # As data.decode does, and for the same reason a little more.
    across, down = (math.floor(side / kept + 1e-9) for side in (pixels.width, pixels.height))
    to = f"to {across}x{down}"
    if pixels.keep_proportions:
        rounded = "down" if across == down else "to the nearest, halves to even"
        to = f"until it just covers {across}x{down}, the longer side rounded {rounded}"
    half = {"even": "to the nearest, halves to even", "down": "down"}[pixels.crop_rounding]
    return [
        f"think of the image as resized {to}",
        f"box: of that, {size} in the middle; half of what is left over on each axis is rounded "
        f"{half}; in pixels of the original, as fractions",
    ]


def _colours(pixels: Pixels) -> list[str]:
    if pixels.dtype == "uint16":
        return ["16-bit greyscale keeps its values; 8-bit images become grey, times 257"]
    if pixels.dtype == "float32":
        return ["32-bit greyscale, its values as they are"]
    return [
        f"lay transparent pixels on {pixels.background}",
        "of 16-bit greyscale keep the upper 8 bits",
        "convert to 8-bit RGB"
        if pixels.channels == 3
        else "convert to 8-bit grey (Pillow's L: 0.299 red + 0.587 green + 0.114 blue)",
    ]
