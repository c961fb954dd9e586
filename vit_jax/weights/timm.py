"""The layout of timm's VisionTransformer: config.json and model.safetensors."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.models import ViT
from vit_jax.models.patches import grid_size, pair
from vit_jax.weights.files import TensorFile
from vit_jax.weights.layout import (
    Layout,
    Rule,
    learned_positions,
    only_standard,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)
from vit_jax.weights.preprocessing import Preprocessing, another_rounding
from vit_jax.weights.timm_config import POOLS, describe, image_size_of, interpolation

BLOCK = "blocks.{i}"
RULES = (
    same("cls_token", "cls_token"),
    same("register_tokens", "reg_token"),
    same("pos_embed", "pos_embed"),
    *torch_conv("patch_embed", "patch_embed.proj"),
    *torch_norm("encoder/block_{i}/norm1", f"{BLOCK}.norm1"),
    *torch_linear("encoder/block_{i}/attn/qkv", f"{BLOCK}.attn.qkv"),
    *torch_norm("encoder/block_{i}/attn/q_norm", f"{BLOCK}.attn.q_norm"),
    *torch_norm("encoder/block_{i}/attn/k_norm", f"{BLOCK}.attn.k_norm"),
    *torch_linear("encoder/block_{i}/attn/proj", f"{BLOCK}.attn.proj"),
    same("encoder/block_{i}/layer_scale1/gamma", f"{BLOCK}.ls1.gamma"),
    *torch_norm("encoder/block_{i}/norm2", f"{BLOCK}.norm2"),
    *torch_linear("encoder/block_{i}/mlp/fc1", f"{BLOCK}.mlp.fc1"),
    *torch_linear("encoder/block_{i}/mlp/fc2", f"{BLOCK}.mlp.fc2"),
    same("encoder/block_{i}/layer_scale2/gamma", f"{BLOCK}.ls2.gamma"),
    same("map_pool/probe", "attn_pool.latent"),
    *torch_linear("map_pool/q", "attn_pool.q"),
    *torch_linear("map_pool/kv", "attn_pool.kv"),
    *torch_linear("map_pool/proj", "attn_pool.proj"),
    *torch_norm("map_pool/norm", "attn_pool.norm"),
    *torch_linear("map_pool/mlp/fc1", "attn_pool.mlp.fc1"),
    *torch_linear("map_pool/mlp/fc2", "attn_pool.mlp.fc2"),
    *torch_linear("head", "head"),
)


def canonical(tensors: TensorFile, config: dict[str, Any]) -> TensorFile:
    """DeiT-III's own names of LayerScale; positions of registers added to the registers."""
    name = config.get("architecture", "")

    def new(old: str) -> str:
        return re.sub(r"gamma_([12])$", r"ls\1.gamma", old) if "deit3" in name else old

    tensors = tensors.rename({new(old): old for old in tensors.shapes})
    registers = tensors.shapes.get("reg_token", (1, 0))[1]
    if not registers or "pos_embed" not in tensors.shapes:
        return tensors
    _, _, height, width = tensors.shapes["patch_embed.proj.weight"]
    first = int("cls_token" in tensors.shapes)
    size = image_size_of(tensors, config, (height, width))
    patches = math.prod(grid_size(size, (height, width)))
    if tensors.shapes["pos_embed"][1] != first + registers + patches:
        return tensors
    return _fold_registers(tensors, first, registers)


def _fold_registers(tensors: TensorFile, first: int, registers: int) -> TensorFile:
    """Registers with positions: the sum is all that the encoder sees, and all that is kept."""
    count = tensors.shapes["pos_embed"][1]
    shapes = tensors.shapes | {
        "pos_embed": (1, count - registers, tensors.shapes["pos_embed"][2]),
    }

    def read(name: str) -> np.ndarray:
        value = tensors.read(name)
        if name == "pos_embed":
            return np.delete(value, slice(first, first + registers), axis=1)
        if name == "reg_token":
            return value + tensors.read("pos_embed")[:, first : first + registers]
        return value

    return TensorFile(tensors.path, shapes, read, tensors.left_out)


def rules(model: ViT) -> tuple[Rule, ...]:
    """The last norm has two names, by where it stands."""
    return (*RULES, *torch_norm("norm", "fc_norm" if model.final_norm == "pooled" else "norm"))


def refuses(model: ViT) -> list[str]:
    """timm has no pre-logits layer, and attention takes the width of its heads from the model's."""
    allowed = ("pool", "has_class_token", "num_registers", "final_norm", "qkv_bias", "qk_norm")
    reasons = only_standard(model, (*allowed, "layer_scale"))
    if model.pool == "seq":
        reasons.append("pool='seq'")
    return [reason for reason in reasons if reason != "positions='none'"]


def loses(model: ViT, preprocessing: Preprocessing) -> list[str]:
    """Epsilon has no place in config.json, nor how the centre is cut."""
    lines = [f"norm_eps={model.norm_eps:g} becomes 1e-06 there"] if model.norm_eps != 1e-6 else []
    return lines + another_rounding(preprocessing, "even")


def save(
    folder: Path, arrays: dict[str, np.ndarray], model: ViT, preprocessing: Preprocessing
) -> None:
    """config.json and model.safetensors, for `timm.create_model(f"local-dir:{folder}")`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if model.num_registers and model.has_class_token and model.class_position:
        # There positions cover either class token and registers, or neither.
        table = arrays["pos_embed"]
        zeros = np.zeros((1, model.num_registers, model.width), table.dtype)
        arrays |= {"pos_embed": np.concatenate([table[:, :1], zeros, table[:, 1:]], axis=1)}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(_config(model, preprocessing), indent=2)
    (folder / "config.json").write_text(text + "\n")


def _config(model: ViT, preprocessing: Preprocessing) -> dict[str, Any]:
    assert model.image_size is not None
    size, mlp_dim = pair(model.image_size), model.mlp_dim or 4 * model.width
    pools = {ours: theirs for theirs, ours in POOLS.items()} | {"tokens-mean": "avg"}
    includes_prefix = model.pool == "tokens-mean" or (
        model.pool == "map" and model.num_prefix_tokens > 0
    )
    config: dict[str, Any] = {
        # Any name of a plain ViT would do: the arguments say everything.
        "architecture": "vit_base_patch16_224",
        "num_classes": model.num_classes or 0,
        "num_features": model.width,
        "global_pool": pools[model.pool],
        "model_args": {
            "img_size": list(size),
            "patch_size": list(pair(model.patch_size)),
            "in_chans": model.channels,
            "num_classes": model.num_classes or 0,
            "global_pool": pools[model.pool],
            "embed_dim": model.width,
            "depth": model.depth,
            "num_heads": model.num_heads,
            # timm rounds width * mlp_ratio down.
            "mlp_ratio": (mlp_dim + 0.5) / model.width,
            "qkv_bias": model.qkv_bias,
            "qk_norm": model.qk_norm,
            "init_values": model.layer_scale,
            "class_token": model.has_class_token,
            "no_embed_class": not (model.class_position and model.has_class_token),
            "reg_tokens": model.num_registers,
            "pos_embed": "none" if model.positions == "none" else "learn",
            "fc_norm": model.final_norm == "pooled",
            "final_norm": model.final_norm != "none",
            "act_layer": model.activation,
        },
        "pretrained_cfg": {
            "input_size": [model.channels, *size],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_fraction,
            "crop_mode": {"crop": "center", "squash": "squash"}[preprocessing.resize],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": model.num_classes or 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if includes_prefix:
        config["model_args"]["pool_include_prefix"] = True
    if preprocessing.class_names is not None:
        config["label_names"] = list(preprocessing.class_names)
    return config


LAYOUT = Layout(
    name="timm",
    title="timm",
    rules=rules,
    interpolation=interpolation,
    describe=describe,
    canonical=canonical,
    prepare=learned_positions,
    refuses=refuses,
    loses=loses,
    save=save,
)
