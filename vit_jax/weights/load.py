"""Open published weights: which layout, which architecture, and the parameters, adapted."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models import ViT, abstract_params
from vit_jax.models.patches import pair
from vit_jax.ops.resample import Interpolation
from vit_jax.runs.folder import is_run_folder
from vit_jax.weights import google, hub, huggingface, timm, torchvision
from vit_jax.weights.adapt import adapt, resize_statistics
from vit_jax.weights.files import TensorFile, WeightsError, open_tensors, read_json
from vit_jax.weights.layout import Layout, Params, Preprocessing

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
class Spec:
    """What belongs to weights besides the model and its parameters."""

    mean: tuple[float, ...]
    """To subtract from pixels in 0..1, per channel."""
    std: tuple[float, ...]
    """To divide by after that, per channel."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    class_names: tuple[str, ...] | None
    """Names by label; None: the file has none, or the head is new."""
    layout: str
    """huggingface, timm, torchvision, google, or run."""
    fresh_head: bool
    """The head was initialised anew: it knows nothing until it is trained."""
    steps: tuple[str, ...]
    """What was changed on loading, a line each."""


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
        want = _shapes(model)
        interpolation = interpolation or self.interpolation
        params, steps, fresh = adapt(self.read(), self.model, model, interpolation, new_head, seed)
        _check_shapes(self.path, params, want)
        return params, [*self.preprocessing.notes, *steps], fresh


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
      fields: any other field of `ViT`, such as `patch_size=8`, `channels=1` or `drop_path=0.1`.

    Returns:
      the model, its variables {"params": …} in float32, and the spec. `model.apply(variables,
      (pixels - spec.mean) / spec.std)` computes what the original does, pixels in 0..1.

    Raises:
      WeightsError: the weights cannot be read or do not fit what is asked for.
    """
    found = open_pretrained(source)
    wanted = dict(fields)
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


def open_pretrained(source: str | os.PathLike[str]) -> Pretrained:
    """Recognise the layout and the architecture; reads no array yet.

    Raises:
      WeightsError: there is nothing there, or nothing that is known.
    """
    source = os.fspath(source)
    if source.startswith(hub.PREFIX):
        source = hub.fetch(source)
    path = Path(source).expanduser()
    if is_run_folder(path):
        return _open_run(path, "latest")
    if path.parent.name == "checkpoints" and is_run_folder(path.parent.parent):
        return _open_run(path.parent.parent, int(path.name))
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
    try:
        tensors = layout.canonical(tensors, config)
        model, preprocessing = layout.describe(tensors, config, path.parent)
    except KeyError as error:
        raise WeightsError(
            f"{path}, read as {layout.title}, lacks {error}: it is another architecture, or "
            "only a part of one"
        ) from error
    return Pretrained(
        path,
        layout.name,
        model,
        preprocessing,
        layout.interpolation(config),
        read=lambda: layout.read(tensors, model, _shapes(model)),
    )


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
        steps=tuple(steps),
    )


def nested(params: Params) -> dict[str, Any]:
    """{"a/b": array} -> {"a": {"b": jax array}}; empties `params`, to hold no array twice."""
    tree: dict[str, Any] = {}
    for path in list(params):
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(params.pop(path))
    return tree


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": leaf}} -> {"a/b": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


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
        Preprocessing(data.mean, data.std, run.class_names),
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
    some = ", ".join(list(tensors.shapes)[:4]) or "nothing"
    raise WeightsError(
        f"{tensors.path} is no ViT in the layout of {', '.join(LAYOUTS)}: it holds {some} …"
    )


def _shapes(model: ViT) -> dict[str, tuple[int, ...]]:
    assert model.image_size is not None
    assert model.channels is not None
    tree = abstract_params(model, model.image_size, model.channels)
    return {path: leaf.shape for path, leaf in flat(tree).items()}


def _check_shapes(path: Path, params: Params, want: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a WeightsError unless the parameters are those of the model asked for."""
    hint = "leave out the fields of the model that the file already tells"
    missing = [name for name in want if name not in params]
    extra = [name for name in params if name not in want]
    if missing or extra:
        raise WeightsError(
            f"{path} does not fit the model asked for: it "
            + "; it ".join(
                f"{verb} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
                for verb, names in (("lacks", missing), ("has no place for its", extra))
                if names
            )
            + f"; {hint}"
        )
    for name, shape in want.items():
        if params[name].shape != shape:
            raise WeightsError(
                f"{path}: {name} has shape {params[name].shape}, the model asked for needs "
                f"{shape}; {hint}"
            )
