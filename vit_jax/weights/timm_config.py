"""What timm's config.json and the shapes of its arrays say about an architecture.

A name there stands for arguments that no array shows; `model_args` overrides them.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from vit_jax.data.source import Resampling
from vit_jax.models import ViT
from vit_jax.models.layers import Activation
from vit_jax.models.patches import grid_size
from vit_jax.models.vit import FinalNorm, Pool
from vit_jax.ops.resample import Interpolation
from vit_jax.weights.files import TensorFile, WeightsError
from vit_jax.weights.layout import block_count, likely_heads, square_grid
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

# Names whose heads are not those of their width.
HEADS = {r"vit_base_patch16_gap_224$": 16, "giantopt": 16, r"test_vit2?$": 2, r"test_vit[34]$": 3}
TANH = re.compile(
    r"(base_patch32|so400m_patch16|giantopt).*siglip|large_patch16_siglip(_gap)?_512$"
)
# How timm names its plain ViTs, and what tells those among them that compute something else.
PLAIN = re.compile("vit_|deit|flexivit_|eva_large_patch14_|test_vit")
ANOTHER_COMPUTATION = re.compile(r"rpn|rope|_pe_|dinov3|lingbot|sapiens|eva02|diff")
POOLS: dict[str, Pool] = {"token": "cls", "avg": "gap", "map": "map", "": "none"}
ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
# Arguments that change nothing, or that the arrays and the other fields tell.
KNOWN_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "qkv_bias", "qk_norm", "init_values", "class_token", "no_embed_class"),
    *("reg_tokens", "global_pool", "pool_include_prefix", "fc_norm", "final_norm", "pos_embed"),
    *("act_layer", "dynamic_img_size", "dynamic_img_pad", "weight_init", "pre_norm"),
    *("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("patch_drop_rate", "fix_init"),
}


def describe(
    tensors: TensorFile, config: dict[str, Any], folder: Path | None
) -> tuple[ViT, Preprocessing]:
    """The architecture, from the shapes, and from config.json what shapes do not tell."""
    shapes, arguments = tensors.shapes, config.get("model_args", {})
    name = config.get("architecture", "")
    _check_computation(tensors, name, arguments)
    width, channels, patch_height, patch_width = shapes["patch_embed.proj.weight"]
    q_norm, head = shapes.get("blocks.0.attn.q_norm.weight"), shapes.get("head.weight")
    classes, registers = "cls_token" in shapes, shapes.get("reg_token", (1, 0))[1]
    image_size = image_size_of(tensors, config, (patch_height, patch_width))
    num_heads = arguments.get("num_heads", config.get("num_heads"))
    if num_heads is None:
        num_heads = width // q_norm[0] if q_norm else _heads(name, width)
    notes = _notes(config, image_size, num_heads)
    patches = math.prod(grid_size(image_size, (patch_height, patch_width)))
    activation = "gelu_tanh" if TANH.search(name) else "gelu"
    final_norm: FinalNorm = "none"
    if "norm.weight" in shapes or "fc_norm.weight" in shapes:
        final_norm = "pooled" if "fc_norm.weight" in shapes else "tokens"
    model = ViT(
        image_size=image_size,
        patch_size=(patch_height, patch_width),
        channels=channels,
        width=width,
        depth=block_count(tensors, r"blocks\.(\d+)\."),
        num_heads=num_heads,
        mlp_dim=shapes["blocks.0.mlp.fc1.weight"][0],
        num_classes=head[0] if head else None,
        pool=_pool(tensors, config, arguments, classes),
        class_token=classes,
        num_registers=registers,
        positions="learned" if "pos_embed" in shapes else "none",
        class_position="pos_embed" not in shapes or shapes["pos_embed"][1] > patches,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        qk_norm=q_norm is not None,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in shapes else None,
        final_norm=final_norm,
        activation=ACTIVATIONS[arguments.get("act_layer", activation)],
        norm_eps=1e-6,
    )
    return model, _preprocessing(config, channels, notes)


def _check_computation(tensors: TensorFile, name: str, arguments: dict[str, Any]) -> None:
    """Raise a WeightsError where equal names and shapes stand for another computation."""
    shapes = tensors.shapes
    if ANOTHER_COMPUTATION.search(name) or (name and not PLAIN.match(name)):
        raise WeightsError(
            f"{tensors.path}: timm's {name} computes something else than a plain ViT"
        )
    unknown = {k: v for k, v in arguments.items() if k not in KNOWN_ARGUMENTS}
    if unknown.get("norm_layer") == "layernorm":
        del unknown["norm_layer"]
    if arguments.get("act_layer", "gelu") not in ACTIVATIONS:
        unknown["act_layer"] = arguments["act_layer"]
    if unknown:
        raise WeightsError(f"{tensors.path}: model_args {unknown} are not known here")
    up, down = (shapes.get(f"blocks.0.mlp.{fc}.weight", ()) for fc in ("fc1", "fc2"))
    if up and down and up[0] != down[1]:
        raise WeightsError(f"{tensors.path}: {name}'s MLP is gated (SwiGLU), which ViT has not")
    reasons = {
        "norm_pre.weight": "a norm before the blocks (CLIP)",
        "dist_token": "a distillation token (DeiT)",
        "blocks.0.gamma_1": "LayerScale under the names of EVA, whose attention is rotary",
    }
    for key, reason in reasons.items():
        if key in shapes:
            raise WeightsError(f"{tensors.path}: {name or 'the model'} has {reason}; ViT has not")


def image_size_of(
    tensors: TensorFile, config: dict[str, Any], patch_size: Sequence[int]
) -> tuple[int, int]:
    """Height and width in pixels that the patches cover, from config.json or a square of positions.

    Raises:
      WeightsError: neither tells it.
    """
    declared = _declared_size(config)
    if declared:
        # A convolution leaves out what is beyond the last whole patch: 384 pixels by 14 are 378.
        height, width = (side - side % p for side, p in zip(declared, patch_size, strict=True))
        return height, width
    shapes = tensors.shapes
    if "pos_embed" not in shapes:
        raise WeightsError(f"{tensors.path}: without positions, only config.json tells the size")
    count, classes = shapes["pos_embed"][1], "cls_token" in shapes
    # Positions cover every token before the patches, or none of them.
    prefix = classes + shapes.get("reg_token", (1, 0))[1]
    if math.isqrt(count) ** 2 != count:
        count -= prefix
    side = square_grid(tensors.path, count)
    return side * patch_size[0], side * patch_size[1]


def interpolation(config: dict[str, Any]) -> Interpolation:
    """FlexiViT's position tables are resampled by straight lines, others by antialiased cubics."""
    linear = re.search("flexivit|radio", config.get("architecture", ""))
    return "linear" if linear else "bicubic_antialias"


def _declared_size(config: dict[str, Any]) -> tuple[int, int] | None:
    size = config.get("model_args", {}).get("img_size")
    if size is None and "pretrained_cfg" in config:
        size = config["pretrained_cfg"].get("input_size", [None])[1:]
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if size else None


def _notes(config: dict[str, Any], image_size: tuple[int, int], num_heads: int) -> tuple[str, ...]:
    if "architecture" not in config:
        return (
            f"no config.json: num_heads={num_heads}, a plain pre-norm ViT with exact GELU, its "
            "pool, mean, std and resizing assumed",
        )
    declared = _declared_size(config)
    if declared is None or declared == image_size:
        return ()
    (height, width), (rows, columns) = declared, image_size
    return (
        f"image_size: patches cover {rows}x{columns} of the {height}x{width} pixels declared; cut "
        "the rest off at the right and below; files are resized to the smaller size",
    )


def _heads(name: str, width: int) -> int:
    for pattern, heads in HEADS.items():
        if re.search(pattern, name):
            return heads
    return likely_heads(width)


def _pool(
    tensors: TensorFile, config: dict[str, Any], arguments: dict[str, Any], classes: bool
) -> Pool:
    usual = "map" if "attn_pool.latent" in tensors.shapes else "token" if classes else "avg"
    if "fc_norm.weight" in tensors.shapes:
        usual = "avg"
    theirs = arguments.get("global_pool", config.get("global_pool", usual))
    if theirs not in POOLS:
        raise WeightsError(
            f"{tensors.path}: global_pool={theirs!r} is none of {', '.join(map(repr, POOLS))}"
        )
    name = config.get("architecture", "")
    with_prefix = arguments.get("pool_include_prefix", re.search("test_vit3$", name) is not None)
    prefix = classes + tensors.shapes.get("reg_token", (1, 0))[1]
    if theirs == "map" and prefix and not with_prefix:
        raise WeightsError(
            f"{tensors.path}: {name or 'the model'} pools by attention over the patches alone, "
            "beside other tokens; ViT pools over all"
        )
    return "tokens-mean" if theirs == "avg" and with_prefix else POOLS[theirs]


def _preprocessing(config: dict[str, Any], channels: int, notes: tuple[str, ...]) -> Preprocessing:
    given = config.get("pretrained_cfg", config)
    labels = config.get("label_names", given.get("label_names"))
    # timm's own defaults, for what is missing or null.
    mode, filter_name = given.get("crop_mode") or "center", given.get("interpolation") or "bicubic"
    if mode not in ("center", "squash"):
        notes += (f"crop_mode={mode!r} is not known here: pictures are squashed",)
    if filter_name not in get_args(Resampling):
        notes += (f"interpolation={filter_name!r} is not known here: bicubic is taken",)
        filter_name = "bicubic"
    fraction = float(given.get("crop_pct") or 0.875)
    if fraction > 1:
        notes += (f"crop_pct={fraction}: there pictures get a border, which they get not here",)
        fraction = 1.0
    if isinstance(labels, dict):
        labels = [labels[key] for key in sorted(labels, key=int)]
    return Preprocessing(
        mean=tuple(given.get("mean", IMAGENET_MEAN[:channels])),
        std=tuple(given.get("std", IMAGENET_STD[:channels])),
        class_names=tuple(labels) if labels else None,
        notes=notes,
        resize="crop" if mode == "center" else "squash",
        crop_fraction=fraction,
        crop_rounding="even",
        interpolation=filter_name,
    )
