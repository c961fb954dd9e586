"""Write a model in a published layout."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.models import ViT
from vit_jax.weights.files import WeightsError
from vit_jax.weights.layout import fixed_patch_size
from vit_jax.weights.load import Spec
from vit_jax.weights.preprocessing import Preprocessing, resizing
from vit_jax.weights.pretrained import LAYOUTS
from vit_jax.weights.trees import flat


def save_pretrained(
    out: str | os.PathLike[str],
    layout: str,
    model: ViT,
    variables: Mapping[str, Any],
    spec: Spec | Preprocessing,
    say: Callable[[str], Any] | None = print,
) -> Path:
    """Write weights as huggingface, timm, torchvision or google has them.

    Args:
      out: a folder for huggingface and timm, a file for torchvision (.safetensors) and google
        (.npz). It must not exist yet; an empty folder may.
      layout: one of the four names.
      model: with `image_size` and `channels` declared.
      variables: {"params": …}.
      spec: mean, standard deviation, class names and resizing to store with it, where there is a
        place.
      say: takes one line on each thing that the layout cannot hold; None: silence.

    Returns:
      the path written.

    Raises:
      WeightsError: the system has no such architecture, or `out` exists.
    """
    if layout not in LAYOUTS:
        raise WeightsError(f"layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if model.image_size is None or model.channels is None:
        raise WeightsError(
            "image_size and channels have to be declared: model.clone(image_size=224, channels=3)"
        )
    target, path = LAYOUTS[layout], Path(out).expanduser()
    if reasons := target.refuses(model):
        raise WeightsError(f"{target.title}'s ViT has no counterpart for {', '.join(reasons)}")
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise WeightsError(f"{path} exists already: name another place")
    params = {name: np.asarray(leaf) for name, leaf in flat(variables["params"]).items()}
    # Fixed positions first: they are counted in patches of the stored size.
    prepared, params = fixed_patch_size(*target.prepare(model, params))
    preprocessing = Preprocessing(spec.mean, spec.std, spec.class_names, **resizing(spec))
    if say is not None:
        for line in target.loses(model, preprocessing):
            say(line)
    target.save(path, target.write(params, prepared), prepared, preprocessing)
    return path
