"""What a published layout is: a table of names, and how a file tells its architecture.

Trees are flat here: {"encoder/block_0/norm1/scale": array}.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vit_jax.models import SIZES, ViT
from vit_jax.models.attention import width_per_head
from vit_jax.models.patches import grid_size, pair
from vit_jax.ops.positions import sincos2d
from vit_jax.ops.resample import Interpolation, resample_patch_kernel
from vit_jax.weights.files import TensorFile, WeightsError
from vit_jax.weights.preprocessing import Preprocessing

Params = dict[str, Any]
"""{path: array}, of NumPy or of jax."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter of ours and the arrays it is made of elsewhere; {i} is a block's number."""

    ours: str
    theirs: tuple[str, ...]
    read: Callable[[list[np.ndarray]], np.ndarray]
    """Their arrays, in the order of `theirs` -> our parameter."""
    write: Callable[[np.ndarray, ViT], list[np.ndarray]]
    """Our parameter -> their arrays."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a system names, shapes and describes the weights of a ViT."""

    name: str
    title: str
    rules: Callable[[ViT], Sequence[Rule]]
    """The table of names of a model."""
    interpolation: Callable[[dict[str, Any]], Interpolation]
    """config.json -> how the system itself resamples positions to another grid."""
    describe: Callable[[TensorFile, dict[str, Any], Path | None], tuple[ViT, Preprocessing]]
    """Arrays, config.json and its folder -> the architecture, with its image size, and the rest."""
    canonical: Callable[[TensorFile, dict[str, Any]], TensorFile]
    """The arrays under the names that the rules know."""
    prepare: Callable[[ViT, Params], tuple[ViT, Params]]
    """The same function with positions in the form that the system has."""
    refuses: Callable[[ViT], Sequence[str]]
    """Why a model cannot be written: the fields the system has no counterpart for."""
    loses: Callable[[ViT, Preprocessing], Sequence[str]]
    """What the system computes or stores otherwise, so that a reader should know."""
    save: Callable[[Path, dict[str, np.ndarray], ViT, Preprocessing], None]
    """Write the arrays and whatever describes them."""

    def read(
        self, tensors: TensorFile, model: ViT, shapes: Mapping[str, tuple[int, ...]]
    ) -> Params:
        """The parameters `shapes` lists, {path: shape}; every array of the file must be used.

        Raises:
          WeightsError: arrays are missing, left over, of another shape, or not finite.
        """
        places = self._places(model, shapes)
        _check_names(self, tensors, [name for _, names in places.values() for name in names])
        params = {}
        for path, (rule, names) in places.items():
            parts, called = [tensors.read(name) for name in names], tensors.called(names)
            _check_parts(tensors.path, called, parts)
            value = np.ascontiguousarray(rule.read(parts), np.float32)
            if value.shape != shapes[path]:
                raise WeightsError(
                    f"{tensors.path}: {', '.join(called)} makes {path} of shape {value.shape}, "
                    f"but the architecture needs {shapes[path]}"
                )
            # A sum is NaN or infinite where one of its terms is, and cheaper than asking each.
            if not math.isfinite(value.sum(dtype=np.float64)):
                raise WeightsError(
                    f"{tensors.path}: {', '.join(called)} holds NaN or infinite values: the file "
                    "is damaged, or its training diverged"
                )
            # To the device at once: the host holds one array at a time.
            params[path] = jnp.asarray(value)
        return params

    def write(self, params: Params, model: ViT) -> dict[str, np.ndarray]:
        """Their arrays by their names."""
        found = {}
        for path, (rule, names) in self._places(model, params).items():
            arrays = rule.write(params[path], model)
            found |= {n: np.ascontiguousarray(a) for n, a in zip(names, arrays, strict=True)}
        return found

    def _places(self, model: ViT, paths: Iterable[str]) -> dict[str, tuple[Rule, list[str]]]:
        """The rule for each parameter of ours, and the names of its arrays there."""
        table, places = {rule.ours: rule for rule in self.rules(model)}, {}
        for path in paths:
            number = "".join(re.findall(r"^encoder/block_(\d+)/", path))
            ours = path.replace(f"block_{number}/", "block_{i}/", 1) if number else path
            if ours not in table:
                raise WeightsError(f"the {self.title} layout has no counterpart for {path}")
            places[path] = table[ours], [name.format(i=number) for name in table[ours].theirs]
        return places


def same(ours: str, theirs: str) -> Rule:
    """The same array on both sides."""
    return Rule(ours, (theirs,), lambda parts: parts[0], lambda value, _: [value])


def torch_linear(ours: str, *theirs: str) -> list[Rule]:
    """Our kernel [d, e] and bias, PyTorch's weight [e, d] and bias; several stand side by side."""

    def read(parts):
        return parts[0].T if len(parts) == 1 else np.concatenate([p.T for p in parts], axis=1)

    def write(value, _):
        return [part.T for part in np.split(value, len(theirs), axis=1)]

    return [
        Rule(f"{ours}/kernel", tuple(f"{name}.weight" for name in theirs), read, write),
        Rule(
            f"{ours}/bias",
            tuple(f"{name}.bias" for name in theirs),
            np.concatenate,
            lambda value, _: np.split(value, len(theirs)),
        ),
    ]


def torch_norm(ours: str, theirs: str) -> list[Rule]:
    """Our scale and bias, PyTorch's weight and bias."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def torch_conv(ours: str, theirs: str) -> list[Rule]:
    """Our kernel [ph, pw, c, d] and bias, PyTorch's weight [d, c, ph, pw] and bias."""
    kernel = Rule(
        f"{ours}/kernel",
        (f"{theirs}.weight",),
        lambda parts: parts[0].transpose(2, 3, 1, 0),
        lambda value, _: [value.transpose(3, 2, 0, 1)],
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def block_count(tensors: TensorFile, pattern: str) -> int:
    """How many different numbers the first group of `pattern` takes in the names."""
    return len({found[1] for name in tensors.shapes if (found := re.match(pattern, name))})


def likely_heads(width: int) -> int:
    """Heads of a published size; of other widths, heads of 64 channels, as is usual."""
    published = {size.width: size.num_heads for size in SIZES.values()}
    if width not in published and width % 64:
        raise WeightsError(
            f"width {width} is no published size and no multiple of 64, so nothing tells the "
            "number of heads: give num_heads, such as load_pretrained(…, num_heads=4)"
        )
    return published.get(width, width // 64)


def square_grid(path: Path, patches: int) -> int:
    """Patches on a side of a square grid."""
    side = math.isqrt(patches)
    if side * side != patches:
        raise WeightsError(
            f"{path}: {patches} positions of patches make no square, and nothing in the file says "
            "which rectangle they are"
        )
    return side


def fixed_patch_size(model: ViT, params: Params) -> tuple[ViT, Params]:
    """The same function with a patch kernel of the size it is used at."""
    patch = pair(model.patch_size)
    kernel = np.asarray(params["patch_embed/kernel"])
    if kernel.shape[:2] == patch:
        return model.clone(patch_kernel_size=None), params
    kernel = resample_patch_kernel(kernel, patch, "linear")
    return model.clone(patch_kernel_size=None), params | {"patch_embed/kernel": kernel}


def learned_positions(model: ViT, params: Params) -> tuple[ViT, Params]:
    """The same function with sincos2d positions as an ordinary table."""
    if model.positions != "sincos2d":
        return model, params
    assert model.image_size is not None
    grid = grid_size(model.image_size, model.patch_size)
    table = np.asarray(sincos2d(*grid, model.width, scale=model.position_scale))[None]
    model = model.clone(positions="learned", class_position=False)
    return model, params | {"pos_embed": table}


def class_position(model: ViT, params: Params) -> tuple[ViT, Params]:
    """The same function with an entry for the class token in the table of learned positions."""
    model, params = learned_positions(model, params)
    if model.class_position or not model.has_class_token:
        return model, params
    table = np.pad(params["pos_embed"], ((0, 0), (1, 0), (0, 0)))
    return model.clone(class_position=True), params | {"pos_embed": table}


def only_standard(model: ViT, allowed: Sequence[str] = ()) -> list[str]:
    """The fields in which a model differs from the paper's ViT, other than those allowed."""
    plain: dict[str, Any] = {
        "pool": "cls",
        "has_class_token": True,
        "num_registers": 0,
        "representation": None,
        "final_norm": "tokens",
        "qkv_bias": True,
        "qk_norm": False,
        "layer_scale": None,
        "block_output_norm": False,
        "mlp_output_activation": False,
        "norm": "layer",
        "rope": False,
        "shifted_patches": False,
    }
    values = {name: getattr(model, name) for name in plain}
    if model.pool == "none" and model.num_classes is None:
        values["pool"] = "cls"  # without a head nothing depends on the pool
    reasons = [
        f"{name.removeprefix('has_')}={values[name]!r}"
        for name, usual in plain.items()
        if name not in allowed and values[name] != usual
    ]
    if model.positions == "none":
        reasons.append("positions='none'")
    head_dim = width_per_head(model.width, model.num_heads, model.head_dim)
    if head_dim * model.num_heads != model.width:
        reasons.append(f"head_dim={head_dim} with {model.num_heads} heads of width {model.width}")
    if model.qk_scale not in (None, head_dim**-0.5):
        reasons.append(f"qk_scale={model.qk_scale}")
    return reasons


def _check_parts(path: Path, names: Sequence[str], parts: Sequence[np.ndarray]) -> None:
    """Raise a WeightsError unless these are real numbers, and parts of one array are alike."""
    for name, part in zip(names, parts, strict=True):
        if not (np.issubdtype(part.dtype, np.floating) or part.dtype == ml_dtypes.bfloat16):
            raise WeightsError(
                f"{path}: {name} holds {part.dtype}: expected floating point; quantised weights "
                "have to be dequantised first"
            )
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise WeightsError(f"{path}: {', '.join(names)} should be alike, but have shapes {shapes}")


def _check_names(layout: Layout, tensors: TensorFile, wanted: Sequence[str]) -> None:
    import difflib

    missing = [name for name in wanted if name not in tensors.shapes]
    extra = [name for name in tensors.shapes if name not in set(wanted)]
    if not missing and not extra:
        return
    problems = []
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1)
        hint = f" (perhaps it is called {tensors.called(near)[0]})" if near else ""
        problems.append(f"lacks {some(missing)}{hint}")
    if extra:
        unused = some(tensors.called(extra))
        problems.append(f"has {unused}, for which this architecture has no place")
    raise WeightsError(f"{tensors.path}, read as {layout.title}, " + ", and ".join(problems))


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest
