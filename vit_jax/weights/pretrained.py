"""Open weights: which file, which layout, which architecture."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.ops.resample import Interpolation
from vit_jax.runs.folder import is_run_folder
from vit_jax.weights import google, hub, huggingface, timm, torchvision
from vit_jax.weights.adapt import adapt
from vit_jax.weights.files import TensorFile, WeightsError, open_tensors, read_json
from vit_jax.weights.layout import Layout, Params, some
from vit_jax.weights.preprocessing import Preprocessing, resizing
from vit_jax.weights.trees import flat, parameter_shapes

LAYOUTS = {
    layout.name: layout
    for layout in (huggingface.LAYOUT, timm.LAYOUT, torchvision.LAYOUT, google.LAYOUT)
}
# The end of a name that only this layout has.
SIGNS = {
    "embeddings.patch_embeddings.projection.weight": "huggingface",
    "patch_embed.proj.weight": "timm",
    "conv_proj.weight": "torchvision",
    "embedding/kernel": "google",
}
# Of a folder, the first that is there.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights that are open but not read: their architecture is known."""

    path: Path
    layout: str
    """huggingface, timm, torchvision or google, or run: a folder that train.py has left."""
    model: ViT
    """With image size and channels declared."""
    preprocessing: Preprocessing
    interpolation: Interpolation
    """How positions are resampled where nothing else is asked for."""
    read: Callable[[], Params]
    """The parameters as they are, {path: float32 array}."""

    def load(
        self,
        model: ViT,
        interpolation: Interpolation | None = None,
        new_head: bool = False,
        seed: int = 0,
    ) -> tuple[Params, list[str], bool]:
        """The parameters, {path: float32 array}, adapted to `model`; see `adapt`.

        `model` may leave dropout rates and the like as it wishes: they touch no parameter.

        Raises:
          WeightsError: the file does not hold this architecture.
        """
        want = parameter_shapes(model)
        interpolation = interpolation or self.interpolation
        if interpolation not in get_args(Interpolation):
            raise WeightsError(
                f"interpolation={interpolation!r}: use one of {', '.join(get_args(Interpolation))}"
            )
        params, steps, fresh = adapt(self.read(), self.model, model, interpolation, new_head, seed)
        _check_shapes(self.path, params, want)
        return params, [*self.preprocessing.notes, *steps], fresh


def open_pretrained(source: str | os.PathLike[str], num_heads: int | None = None) -> Pretrained:
    """Recognise the layout and the architecture; of published weights no array is read yet.

    Args:
      source: as `load_pretrained` takes it.
      num_heads: for a bare state_dict that does not tell it.

    Raises:
      WeightsError: there is nothing there, or nothing that is known.
    """
    source = os.fspath(source)
    if not source:
        raise WeightsError("the path is empty: name a file, a folder or hf-hub:USER/REPO")
    if source.startswith(hub.PREFIX):
        source = hub.fetch(source)
    path = Path(source).expanduser()
    if is_run_folder(path):
        return _open_run(path, "latest")
    if path.parent.name == "checkpoints" and is_run_folder(path.parents[1]) and path.is_dir():
        return _open_run(path.parents[1], int(path.name))
    path = _weights_file(path)
    tensors = _without_wrapper(open_tensors(path))
    layout = _recognise(tensors)
    beside = path.parent / "config.json"
    described = layout in (huggingface.LAYOUT, timm.LAYOUT)
    config = read_json(beside) if described and beside.is_file() else {}
    if layout is huggingface.LAYOUT and "model_type" not in config:
        raise WeightsError(
            f"{path} holds a Hugging Face model, whose config.json should lie beside it: heads "
            "and epsilon stand there alone"
        )
    if num_heads is not None:
        config = {**config, "num_heads": num_heads}
    tensors, model, preprocessing = _describe(layout, tensors, config)
    return Pretrained(
        path,
        layout.name,
        model,
        preprocessing,
        layout.interpolation(config),
        read=lambda: layout.read(tensors, model, parameter_shapes(model)),
    )


def _describe(
    layout: Layout, tensors: TensorFile, config: dict[str, Any]
) -> tuple[TensorFile, ViT, Preprocessing]:
    """The arrays under canonical names, and what they and config.json say."""
    path = tensors.path
    try:
        tensors = layout.canonical(tensors, config)
        model, preprocessing = layout.describe(tensors, config, path.parent)
        _check_plausible(model, tensors)
        parameter_shapes(model)
    except WeightsError:
        raise
    except KeyError as error:
        raise WeightsError(
            f"{path}, read as {layout.title}, lacks {error}: it is another architecture, or "
            "only a part of one"
        ) from error
    # Whatever a config.json or a shape may hold that this layout never has.
    except Exception as error:
        raise WeightsError(
            f"{path}, read as {layout.title}: its config.json or its shapes are not as that has "
            f"them ({type(error).__name__}: {error})"
        ) from error
    if tensors.left_out:
        note = f"not read, as no part of the ViT: {some(tensors.left_out)}"
        preprocessing = dataclasses.replace(preprocessing, notes=(*preprocessing.notes, note))
    return tensors, model, preprocessing


def _check_plausible(model: ViT, tensors: TensorFile) -> None:
    """Raise a WeightsError where it would take forever to find out that a model does not fit."""
    if model.depth > len(tensors.shapes):
        raise WeightsError(
            f"{tensors.path} holds {len(tensors.shapes)} arrays, too few for {model.depth} blocks"
        )
    sides = (*pair(model.image_size or 0), *pair(model.patch_size))
    if max(sides) > 2**16:
        raise WeightsError(
            f"{tensors.path}: image_size={model.image_size}, patch_size={model.patch_size}: more "
            f"than {2**16:,} pixels on a side"
        )


def _open_run(folder: Path, checkpoint: Literal["latest"] | int) -> Pretrained:
    from vit_jax.weights.run_folder import load_run

    run = load_run(folder, checkpoint)
    data = run.config.data
    assert data.mean is not None
    assert data.std is not None
    return Pretrained(
        folder,
        "run",
        run.model,
        Preprocessing(data.mean, data.std, run.class_names, **resizing(data)),
        "bicubic_antialias",
        read=lambda: {path: np.asarray(leaf) for path, leaf in flat(run.params).items()},
    )


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"{path}: there is no such file or folder")
    candidates = [path / name for name in FILES if (path / name).is_file()]
    candidates = candidates or sorted((*path.glob("*.safetensors"), *path.glob("*.npz")))
    if not candidates:
        raise WeightsError(f"{path} holds no weights: expected one of {', '.join(FILES)}, or .npz")
    if len(candidates) > 1 and candidates[0].name not in FILES:
        names = ", ".join(candidate.name for candidate in candidates)
        raise WeightsError(f"{path} holds several weights, {names}: name one of them")
    return candidates[0]


def _without_wrapper(tensors: TensorFile) -> TensorFile:
    """Without what data-parallel training or compiling puts before every name."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if tensors.shapes and all(name.startswith(prefix) for name in tensors.shapes):
            tensors = tensors.rename({name.removeprefix(prefix): name for name in tensors.shapes})
    return tensors


def _recognise(tensors: TensorFile) -> Layout:
    for sign, layout in SIGNS.items():
        if any(name == sign or name.endswith(("." + sign, "/" + sign)) for name in tensors.shapes):
            return LAYOUTS[layout]
    raise WeightsError(
        f"{tensors.path} is no ViT in the layout of {', '.join(LAYOUTS)}: it holds "
        f"{some(list(tensors.shapes)) or 'nothing'}"
    )


def _check_shapes(path: Path, params: Params, want: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a WeightsError unless the parameters are those of the model asked for."""
    hint = "leave out the fields of the model that the file already tells"
    missing = [name for name in want if name not in params]
    extra = [name for name in params if name not in want]
    if missing or extra:
        differences = [f"lacks {some(missing)}"] if missing else []
        differences += [f"holds {some(extra)} besides"] if extra else []
        raise WeightsError(
            f"{path} does not fit the model asked for: it {', and '.join(differences)}; {hint}"
        )
    for name, shape in want.items():
        if params[name].shape != shape:
            raise WeightsError(
                f"{path}: {name} has shape {params[name].shape}, the model asked for needs "
                f"{shape}; {hint}"
            )
