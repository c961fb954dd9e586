"""preprocessor_config.json of transformers' image processors: read, and written."""

import re
from pathlib import Path
from typing import Any

from vit_jax.data.source import Resampling, Resize
from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.weights.files import read_json
from vit_jax.weights.preprocessing import Preprocessing, another_rounding

# By Pillow's numbers.
FILTERS: dict[int, Resampling] = {1: "lanczos", 2: "bilinear", 3: "bicubic", 5: "hamming"}
CLIP = {
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
NO_FILE = (
    "no preprocessor_config.json: mean and std of 0.5, and resizing straight to the image size, "
    "bilinear, assumed"
)
# What each stands for where its file is silent; ViT's image processor without `size` has the
# model's.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "CLIP": CLIP,
    "Bit": CLIP,
}


def read_processor(folder: Path | None, model: ViT) -> Preprocessing:
    """What the image processor beside a model does to pictures; it has no class names."""
    path, size, channels = folder and folder / "preprocessor_config.json", _size(model), _of(model)
    known = path is not None and path.is_file()
    given = read_json(path) if path is not None and known else {}
    name = given.get("image_processor_type") or given.get("feature_extractor_type") or "ViT"
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)?(Fast|Pil)?$", "", name)
    notes = [] if known else [NO_FILE]
    if kind not in DEFAULTS:
        notes.append(f"{name} is not known here: read as if it were ViTImageProcessor")
    steps = {"size": list(size), **DEFAULTS.get(kind, {})}
    steps |= {key: value for key, value in given.items() if value is not None}
    resize, fraction, more = _geometry(steps, size, square=kind not in ("CLIP", "Bit"))
    resample = steps.get("resample", 2)
    if resample not in FILTERS:
        more.append(f"resample={resample!r} is not known here: bilinear is taken")
        resample = 2
    mean, std = _statistics(steps, channels)
    return Preprocessing(
        mean,
        std,
        notes=(*notes, *more),
        resize=resize,
        crop_fraction=fraction,
        crop_rounding="down",
        interpolation=FILTERS[resample],
    )


def _geometry(
    steps: dict[str, Any], want: tuple[int, int], square: bool
) -> tuple[Resize, float, list[str]]:
    """Resize, crop_fraction and notes of steps that should make images of (height, width) `want`.

    Args:
      square: a bare number for `size` stands for both sides, not for the shorter one.
    """
    size, cropped, notes = _sides(steps["size"], square), steps.get("do_center_crop"), []
    cut = _sides(steps.get("crop_size", list(want)), square=True)
    what = f"size={size}" + (f", crop_size={cut}" if cropped else "")
    if steps.get("do_resize", True) is False:
        notes.append("do_resize=false: pictures of another size are resized here nonetheless")
    if steps.get("do_pad"):
        notes.append("do_pad=true: nothing is padded here")
    if set(size) not in ({"height", "width"}, {"shortest_edge"}):
        return "squash", 1.0, [*notes, _instead(what, want)]
    keeps = "shortest_edge" in size
    if keeps and not cropped:
        notes.append(f"{what} without do_center_crop: the centre is cut out here")
    both = (size["shortest_edge"],) * 2 if keeps else (size["height"], size["width"])
    out = (cut["height"], cut["width"]) if cropped else both
    fractions = {part / whole for part, whole in zip(out, both, strict=True)}
    if len(fractions) > 1 or max(fractions) > 1:
        return "squash", 1.0, [*notes, _instead(what, want)]
    if out != want:
        notes.append(f"{what} is not the {want[0]}x{want[1]} of the model: scaled to that")
    return "crop" if keeps else "squash", fractions.pop(), notes


def _sides(size: int | list[int] | dict[str, int], square: bool) -> dict[str, int]:
    """A size as transformers completes it; a bare number is both sides, or the shorter one."""
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    return {"height": size[0], "width": size[1]} if isinstance(size, list) else size


def _instead(what: str, want: tuple[int, int]) -> str:
    return f"{what} cannot be had here: pictures are resized straight to {want[0]}x{want[1]}"


def _statistics(
    steps: dict[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in 0..1, from the image processor's steps; its defaults are 0.5."""
    mean, std = (steps.get(f"image_{name}") or [0.5] * channels for name in ("mean", "std"))
    if steps.get("do_normalize") is False:
        mean, std = [0.0] * channels, [1.0] * channels
    scale = 255 * steps.get("rescale_factor", 1 / 255)
    if steps.get("do_rescale") is False:
        scale = 255.0
    if abs(scale - 1) < 1e-6:  # one over 255, written with fewer digits
        scale = 1.0
    return tuple(x / scale for x in mean), tuple(x / scale for x in std)


def processor_config(model: ViT, preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of preprocessor_config.json.

    transformers' ViTImageProcessor only resizes straight to a size; BitImageProcessor keeps the
    proportions and DeiTImageProcessor does not, and both cut the centre out.
    """
    height, width = _size(model)
    numbers = {name: number for number, name in FILTERS.items()}
    sides = [preprocessing.resized_side(side) for side in (height, width)]
    kind, size = "ViT", {"height": sides[0], "width": sides[1]}
    if _crops(model, preprocessing):
        kind, size = "Bit", {"shortest_edge": sides[0]}
    elif preprocessing.crop_fraction < 1:
        kind = "DeiT"
    config: dict[str, Any] = {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": numbers[preprocessing.interpolation],
    }
    if kind != "ViT":
        config |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if kind == "Bit":
        config["do_convert_rgb"] = _of(model) == 3
    return config | {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def processor_loses(model: ViT, preprocessing: Preprocessing) -> list[str]:
    """What no image processor does."""
    if preprocessing.resize == "crop" and not _crops(model, preprocessing):
        height, width = _size(model)
        return [f"resize='crop' to {height}x{width} becomes 'squash' there, but for a square"]
    return another_rounding(preprocessing, "down")


def _crops(model: ViT, preprocessing: Preprocessing) -> bool:
    """Whether proportions are kept; an image processor that does covers a square."""
    height, width = _size(model)
    return preprocessing.resize == "crop" and height == width


def _size(model: ViT) -> tuple[int, int]:
    assert model.image_size is not None
    return pair(model.image_size)


def _of(model: ViT) -> int:
    return model.channels or 3
