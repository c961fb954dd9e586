"""The layouts of Google's .npz files: vision_transformer's (ImageNet-21k, AugReg) and big_vision's.

One is the other under older names: Flax before Linen counted the submodules of a block together.
The rules know Linen's names.
"""

import functools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.models import ViT
from vit_jax.models.attention import width_per_head
from vit_jax.models.patches import grid_size, pair
from vit_jax.weights.files import TensorFile, WeightsError
from vit_jax.weights.layout import (
    Layout,
    Params,
    Rule,
    block_count,
    learned_positions,
    only_standard,
    same,
    square_grid,
)
from vit_jax.weights.preprocessing import Preprocessing

BLOCK = "Transformer/encoderblock_{i}"
# Pre-Linen name -> Linen name, inside a block.
LINEN = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}
# Of several, the first that is there: a whole training state, then a part of a larger model.
PREFIXES = ("opt/target/", "params/img/", "params/")


def _to_heads(ours: str, *theirs: str) -> list[Rule]:
    """Our kernel [d, parts * k * h] and bias, their kernels [d, k, h] and biases [k, h]."""

    def split(value, model):
        parts = np.split(value, len(theirs), axis=-1)
        return [part.reshape(*value.shape[:-1], model.num_heads, -1) for part in parts]

    def read_kernel(parts):
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def read_bias(parts):
        return np.concatenate([part.reshape(-1) for part in parts])

    return [
        Rule(f"{ours}/kernel", tuple(f"{name}/kernel" for name in theirs), read_kernel, split),
        Rule(f"{ours}/bias", tuple(f"{name}/bias" for name in theirs), read_bias, split),
    ]


def _from_heads(ours: str, theirs: str) -> list[Rule]:
    """Our kernel [k * h, d], their kernel [k, h, d]; the biases are the same."""
    kernel = Rule(
        f"{ours}/kernel",
        (f"{theirs}/kernel",),
        lambda parts: parts[0].reshape(-1, parts[0].shape[-1]),
        lambda value, model: [value.reshape(model.num_heads, -1, value.shape[-1])],
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}/bias")]


def _both(ours: str, theirs: str, weight: str = "kernel") -> list[Rule]:
    return [same(f"{ours}/{leaf}", f"{theirs}/{leaf}") for leaf in (weight, "bias")]


ATTENTION, POOL = f"{BLOCK}/MultiHeadDotProductAttention_0", "MAPHead_0"
RULES = (
    same("cls_token", "cls"),
    same("pos_embed", "pos_embedding"),
    *_both("patch_embed", "embedding"),
    *_both("encoder/block_{i}/norm1", f"{BLOCK}/LayerNorm_0", "scale"),
    *_to_heads(
        "encoder/block_{i}/attn/qkv",
        *(f"{ATTENTION}/{part}" for part in ("query", "key", "value")),
    ),
    *_from_heads("encoder/block_{i}/attn/proj", f"{ATTENTION}/out"),
    *_both("encoder/block_{i}/norm2", f"{BLOCK}/LayerNorm_1", "scale"),
    *_both("encoder/block_{i}/mlp/fc1", f"{BLOCK}/MlpBlock_0/Dense_0"),
    *_both("encoder/block_{i}/mlp/fc2", f"{BLOCK}/MlpBlock_0/Dense_1"),
    *_both("norm", "Transformer/encoder_norm", "scale"),
    same("map_pool/probe", f"{POOL}/probe"),
    *_to_heads("map_pool/q", f"{POOL}/MultiHeadDotProductAttention_0/query"),
    *_to_heads(
        "map_pool/kv",
        *(f"{POOL}/MultiHeadDotProductAttention_0/{part}" for part in ("key", "value")),
    ),
    *_from_heads("map_pool/proj", f"{POOL}/MultiHeadDotProductAttention_0/out"),
    *_both("map_pool/norm", f"{POOL}/LayerNorm_0", "scale"),
    *_both("map_pool/mlp/fc1", f"{POOL}/MlpBlock_0/Dense_0"),
    *_both("map_pool/mlp/fc2", f"{POOL}/MlpBlock_0/Dense_1"),
    *_both("representation", "pre_logits"),
    *_both("head", "head"),
)


def describe(
    tensors: TensorFile, config: dict[str, Any], folder: Path | None
) -> tuple[ViT, Preprocessing]:
    """The architecture, from shapes; GELU by tanh, epsilon 1e-6, pixels in -1..1, as in the code.

    Without positions in the file they are sincos2d, of a grid that the file does not tell: 224
    pixels are assumed, as in the published configs.
    """
    shapes = tensors.shapes
    patch_height, patch_width, channels, width = shapes["embedding/kernel"]
    first = BLOCK.format(i=0)
    depth = block_count(tensors, r"Transformer/encoderblock_(\d+)/")
    _, num_heads, head_dim = shapes[f"{first}/MultiHeadDotProductAttention_0/query/kernel"]
    for name, shape in shapes.items():
        attends = name.startswith("Transformer/") and name.endswith("query/kernel")
        if attends and shape != (width, num_heads, head_dim):
            raise WeightsError(
                f"{tensors.path}: {name} has shape {shape}, the first block's {num_heads} heads "
                f"make {(width, num_heads, head_dim)}"
            )
    has_class_token, class_position = "cls" in shapes, True
    image_size = (224, 224)
    notes = ("positions: none in the file, so sincos2d; of 224 pixels, as in the configs",)
    if "pos_embedding" in shapes:
        count = shapes["pos_embedding"][1]
        # big_vision's positions leave the class token out; a square tells which of the two it is.
        class_position = not (has_class_token and math.isqrt(count) ** 2 == count)
        side = square_grid(tensors.path, count - (has_class_token and class_position))
        image_size, notes = (side * patch_height, side * patch_width), ()
    head, pre = shapes.get("head/bias"), shapes.get("pre_logits/bias")
    model = ViT(
        image_size=image_size,
        patch_size=(patch_height, patch_width),
        channels=channels,
        width=width,
        depth=depth,
        num_heads=num_heads,
        head_dim=None if num_heads * head_dim == width else head_dim,
        mlp_dim=shapes[f"{first}/MlpBlock_0/Dense_0/bias"][0],
        num_classes=head[0] if head else None,
        pool="cls" if has_class_token else "map" if f"{POOL}/probe" in shapes else "gap",
        class_token=has_class_token,
        positions="learned" if "pos_embedding" in shapes else "sincos2d",
        class_position=class_position,
        representation=pre[0] if pre else None,
        activation="gelu_tanh",
        norm_eps=1e-6,
    )
    notes += (
        "resizing: straight to the image size, bilinear, assumed, as in Google's code, which does "
        "not antialias",
    )
    mean, std = (0.5,) * channels, (0.5,) * channels
    return model, Preprocessing(mean, std, notes=notes, resize="squash", interpolation="bilinear")


def canonical(tensors: TensorFile, config: dict[str, Any]) -> TensorFile:
    """Without prefix and optimiser state, in Linen's names, each block by itself."""
    prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in tensors.shapes)), "")
    names = {n.removeprefix(prefix): n for n in tensors.shapes if n.startswith(prefix)}
    names = {_linen(new): old for new, old in names.items()}
    found = tensors.rename(names)
    stacked = [name for name in found.shapes if "/encoderblock/" in name]
    return _unstack(found, stacked) if stacked else found


def _linen(name: str) -> str:
    name = re.sub(r"(?<=^)Transformer/(posembed_input/)?(?=pos_embedding$)", "", name)
    match = re.match(r"(Transformer/encoderblock_?\d*)/(\w+)/(.*)", name)
    if match:
        return f"{match[1]}/{LINEN.get(match[2], match[2])}/{match[3]}"
    # The first models with attention pooling had it outside of a module of its own.
    inlined = ("probe", "MlpBlock_0/", "MultiHeadDotProductAttention_0/", "LayerNorm_0/")
    return f"{POOL}/{name}" if name.startswith(inlined) else name


def _unstack(tensors: TensorFile, stacked: list[str]) -> TensorFile:
    """Blocks trained under a scan are one array each, [depth, …]: view them block by block."""
    depth = tensors.shapes[stacked[0]][0]
    places = {
        name.replace("/encoderblock/", f"/encoderblock_{i}/"): (name, i)
        for name in stacked
        for i in range(depth)
    }
    whole = functools.cache(tensors.read)
    shapes = {new: tensors.shapes[old][1:] for new, (old, _) in places.items()}
    shapes |= {name: shape for name, shape in tensors.shapes.items() if name not in stacked}

    def read(name: str) -> np.ndarray:
        if name not in places:
            return tensors.read(name)
        old, block = places[name]
        return whole(old)[block]

    return TensorFile(tensors.path, shapes, read, tensors.left_out)


def refuses(model: ViT) -> list[str]:
    """No registers, LayerScale, qk-norm; a class token exactly where it is pooled."""
    reasons = only_standard(model, ("pool", "has_class_token", "representation"))
    # Their attention takes any width of a head: it is in the shape.
    reasons = [reason for reason in reasons if not reason.startswith("head_dim")]
    head_dim = width_per_head(model.width, model.num_heads, model.head_dim)
    if model.pool not in ("cls", "gap", "map") or (model.pool == "cls") != model.has_class_token:
        reasons.append(f"pool={model.pool!r} with class_token={model.has_class_token}")
    if model.pool == "map" and head_dim * model.num_heads != model.width:
        reasons.append(f"pool='map' with head_dim={head_dim}")
    # The file holds no size: a reader takes positions for a square, and sincos2d for 224 pixels.
    rows, columns = grid_size(model.image_size or 0, model.patch_size)
    if rows != columns:
        reasons.append(f"image_size={model.image_size}, which makes {rows}x{columns} patches")
    fixed = model.positions == "sincos2d" and not model.has_class_token
    if fixed and pair(model.image_size or 0) != (224, 224):
        reasons.append(f"positions='sincos2d' with image_size={model.image_size}")
    if fixed and model.position_scale != (1.0, 1.0):
        reasons.append(f"positions='sincos2d' with patch_kernel_size={model.patch_kernel_size}")
    return reasons


def loses(model: ViT, preprocessing: Preprocessing) -> list[str]:
    """An archive holds arrays alone, and the code around it is fixed."""
    lines = [
        "mean, std, class names and resizing are not stored: Google's code takes pixels in -1..1"
    ]
    if model.norm_eps != 1e-6:
        lines.append(f"norm_eps={model.norm_eps:g} becomes 1e-06 there")
    if model.activation != "gelu_tanh":
        lines.append(f"activation={model.activation!r} becomes GELU by tanh there")
    return lines


def _prepare(model: ViT, params: Params) -> tuple[ViT, Params]:
    """sincos2d stays as it is, but for a class token: big_vision has the two never together."""
    return learned_positions(model, params) if model.has_class_token else (model, params)


def save(
    path: Path, arrays: dict[str, np.ndarray], model: ViT, preprocessing: Preprocessing
) -> None:
    """One .npz. The paper's architecture gets the names of the paper's code, others big_vision's.

    Raises:
      WeightsError: the file name does not end in .npz, which NumPy would add.
    """
    if path.suffix != ".npz":
        raise WeightsError(f"{path}: name a file that ends in .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.pool == "cls" and model.class_position and model.positions == "learned":
        arrays = {_before_linen(name): array for name, array in arrays.items()}
    else:
        arrays = {f"params/{name}": array for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _before_linen(name: str) -> str:
    if name == "pos_embedding":
        return "Transformer/posembed_input/pos_embedding"
    for old, new in LINEN.items():
        if name.startswith("Transformer/encoderblock_"):
            name = name.replace(f"/{new}/", f"/{old}/")
    return name


LAYOUT = Layout(
    name="google",
    title="Google",
    rules=lambda model: RULES,
    interpolation=lambda config: "linear_corners",
    describe=describe,
    canonical=canonical,
    prepare=_prepare,
    refuses=refuses,
    loses=loses,
    save=save,
)
