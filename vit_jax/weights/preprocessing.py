"""What images published weights expect."""

import dataclasses
import math
from typing import Any

from vit_jax.data.source import CropRounding, Resampling, Resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What images the weights expect, and what their outputs are called."""

    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """What someone who loads the weights should know, a line each."""
    resize: Resize = "crop"
    """This and the next three as in `DataConfig`."""
    crop_fraction: float = 1.0
    crop_rounding: CropRounding = "none"
    interpolation: Resampling = "bicubic"

    def cuts(self) -> bool:
        """Whether a part of a picture is left out."""
        return self.resize == "crop" or self.crop_fraction < 1

    def resized_side(self, side: int) -> int:
        """Whole pixels to which a side is resized, of which the centre keeps `side`."""
        return math.floor(side / self.crop_fraction + 1e-9)


def resizing(source: Any) -> dict[str, Any]:
    """How pictures are resized, the fields that `Preprocessing`, `Spec` and `DataConfig` share."""
    names = ("resize", "crop_fraction", "crop_rounding", "interpolation")
    return {name: getattr(source, name) for name in names}


def another_rounding(preprocessing: Preprocessing, theirs: CropRounding) -> list[str]:
    """The line that says where a system cuts the centre, unless it is where it was cut."""
    ours = preprocessing.crop_rounding
    if ours == theirs or not preprocessing.cuts():
        return []
    return [f"crop_rounding={ours!r} becomes {theirs!r} there: the centre can lie a pixel beside"]
