"""Load weights: the model, its parameters and what belongs to them."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from vit_jax.data.source import CropRounding, Resampling, Resize
from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.ops.resample import Interpolation
from vit_jax.weights.adapt import resize_statistics
from vit_jax.weights.files import WeightsError
from vit_jax.weights.preprocessing import resizing
from vit_jax.weights.pretrained import Pretrained, open_pretrained
from vit_jax.weights.trees import nested


@dataclasses.dataclass(frozen=True)
class Spec:
    """What belongs to weights besides the model and its parameters."""

    mean: tuple[float, ...]
    """To subtract from pixels in 0..1, per channel."""
    std: tuple[float, ...]
    """To divide by after that, per channel."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    resize: Resize
    """How pictures become so: this and the next three as in `DataConfig`."""
    crop_fraction: float
    crop_rounding: CropRounding
    interpolation: Resampling
    class_names: tuple[str, ...] | None
    """Names by label; None: the file has none, or the head is new."""
    layout: str
    """huggingface, timm, torchvision, google, or run."""
    fresh_head: bool
    """The head was initialised anew: it knows nothing until it is trained."""
    steps: tuple[str, ...]
    """What was changed, left out or assumed on loading, a line each."""


def load_pretrained(
    source: str | os.PathLike[str],
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    *,
    interpolation: Interpolation | None = None,
    seed: int = 0,
    say: Callable[[str], Any] | None = print,
    **fields: Any,
) -> tuple[ViT, dict[str, Any], Spec]:
    """Load published weights; the file says which layout and which architecture it is.

    Args:
      source: a folder or file in the layout of Hugging Face, timm, torchvision or Google, a run
        folder, a checkpoint in it (RUN/checkpoints/STEP), or "hf-hub:USER/REPO".
      num_classes: outputs of the head; other than the file's: a new head. 0: no head. None: as is.
      image_size: pixels on a side, or (height, width); positions are resampled. None: as is.
      interpolation: of positions; None: as the system the weights come from does it.
      seed: of a new head's initial values, where `head_zero_init=False`.
      say: takes one line on each change made; None: silence.
      fields: any other field of `ViT`, such as `patch_size=8`, `channels=1` or `drop_path=0.1`;
        `num_heads` where a bare state_dict does not tell it.

    Returns:
      the model, its variables {"params": …} in float32, and the spec. `model.apply(variables,
      (pixels - spec.mean) / spec.std)` computes what the original does, pixels in 0..1.

    Raises:
      WeightsError: the weights cannot be read or do not fit what is asked for.
    """
    found = open_pretrained(source, fields.get("num_heads"))
    wanted = dict(fields)
    if num_classes is not None and num_classes < 0:
        raise WeightsError(f"num_classes={num_classes}: use a positive number, or 0 for no head")
    if num_classes is not None:
        wanted["num_classes"] = num_classes or None
    if image_size is not None:
        wanted["image_size"] = pair(image_size)
    model = found.model.clone(**wanted)
    params, steps, fresh = found.load(model, interpolation, seed=seed)
    if say is not None:
        for step in steps:
            say(step)
    return model, {"params": nested(params)}, make_spec(found, model, steps, fresh)


def make_spec(found: Pretrained, model: ViT, steps: list[str], fresh: bool) -> Spec:
    """The spec of weights after they were adapted to `model`."""
    assert model.image_size is not None
    assert model.channels is not None
    known = not fresh and model.num_classes is not None
    return Spec(
        mean=resize_statistics(found.preprocessing.mean, model.channels),
        std=resize_statistics(found.preprocessing.std, model.channels),
        image_size=pair(model.image_size),
        class_names=found.preprocessing.class_names if known else None,
        layout=found.layout,
        fresh_head=fresh,
        **resizing(found.preprocessing),
        steps=tuple(steps),
    )
