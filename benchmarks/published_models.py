"""The models of timm and torchvision that benchmarks/published.py compares, with random weights.

Published architectures, width and all, cut to two blocks. Needs

    pip install timm==1.0.31 torchvision==0.28.0 torch==2.13.0 safetensors
"""

import functools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DEPTH = 2
Arguments = dict[str, Any]

# Each architecture is here for something that none before it has.
TIMM: tuple[tuple[str, Arguments], ...] = (
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"img_size": (192, 256)}),
    ("vit_tiny_patch16_224", {"in_chans": 1, "num_classes": 10}),
    ("vit_tiny_patch16_224", {"qk_norm": True}),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
    ("vit_base_patch16_224", {"act_layer": "gelu_tanh"}),
    ("vit_base_patch16_224_miil", {}),  # no biases in the q/k/v projection
    ("vit_base_patch16_gap_224", {}),  # 16 heads of 48
    ("vit_huge_patch14_224", {}),  # 16 heads of 80
    ("deit_small_patch16_224", {}),  # ImageNet's mean and standard deviation
    ("deit3_small_patch16_224", {}),  # LayerScale, positions without a class entry
    ("flexivit_small", {}),  # bilinear resampling
    ("eva_large_patch14_196", {}),  # mean of patches beside a class token, norm after it
    ("vit_small_patch14_dinov2", {}),  # no head
    ("vit_small_patch14_reg4_dinov2", {}),  # class token and registers
    ("vit_medium_patch16_reg1_gap_256", {}),  # a register without a position
    ("vit_so150m2_patch16_reg1_gap_256", {}),  # a register with a position; MLP of 34/13
    ("vit_base_patch16_siglip_224", {}),  # attention pooling
    ("vit_so400m_patch16_siglip_256", {}),  # tanh GELU by name, MLP of 4304
    ("vit_so400m_patch14_siglip_gap_224", {}),
    ("vit_intern300m_patch14_448", {}),  # no last norm
    ("test_vit3", {}),  # attention pooling over registers too, heads of 32
)
# What some of these are also read for, as arguments of timm.create_model.
ADAPTED: dict[str, tuple[Arguments, ...]] = {
    "vit_tiny_patch16_224": (
        {"img_size": 320},
        {"img_size": (160, 288)},
        {"patch_size": 8},
        {"patch_size": 32},
        {"in_chans": 1},
        {"in_chans": 5},
    ),
    # As many patches as before, and other positions.
    "vit_tiny_patch16_224, img_size=(192, 256)": ({"img_size": (256, 192)},),
    "deit3_small_patch16_224": ({"img_size": (160, 288)},),
    "flexivit_small": ({"img_size": 320}, {"patch_size": 12}),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 224},),
    "vit_so150m2_patch16_reg1_gap_256": ({"img_size": (192, 320)},),
}
# Not a plain ViT, though some of the files look like one.
REFUSED: tuple[tuple[str, Arguments], ...] = (
    ("vit_base_patch16_rpn_224", {}),  # names and shapes of a plain ViT; norms after the branches
    ("vit_base_patch16_clip_224", {}),  # a norm before the first block
    ("vit_base_patch16_xp_224", {}),  # attention and MLP in parallel, RMSNorm
    ("vit_giant_patch14_dinov2", {}),  # a gated MLP under the names of a plain one
    ("vit_dwee_patch16_reg1_gap_256", {}),  # differential attention
    ("vit_small_patch16_18x2_224", {}),  # two attentions side by side
    ("deit_tiny_distilled_patch16_224", {}),  # a distillation token and a second head
    ("vit_base_patch16_rope_ape_224", {}),  # rotary positions, which leave no name in the file
    ("beit3_base_patch16_224", {}),  # norms inside attention and MLP
    ("vit_tiny_patch16_224", {"global_pool": "max"}),
    ("vit_tiny_patch16_224", {"global_pool": "prr"}),  # attention without parameters
)
TORCHVISION = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")


@functools.cache
def import_references() -> Any:
    """Import timm and torchvision, on a CPU build of PyTorch too.

    PyPI's torchvision is built for CUDA. Where its compiled part does not load, it still asks
    PyTorch at import for two operators, which no ViT uses; it is enough to declare them. They stay
    declared as long as the object returned, which the cache holds.
    """
    import torch

    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    return declared


def versions() -> list[str]:
    """The versions that a report or a table was made with."""
    from importlib.metadata import version

    return [f"{name} {version(name)}" for name in ("timm", "torchvision", "torch", "jax")]


def save_timm(architecture: str, arguments: Arguments, folder: Path) -> Any:
    """A timm model with random weights, after saving it as timm does."""
    import timm

    model = fill(timm.create_model(architecture, depth=DEPTH, **arguments))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def random_torchvision(name: str, image_size: int | None = None) -> Any:
    """A torchvision ViT of two blocks with random weights."""
    from torchvision.models import VisionTransformer

    full = on_meta_device(name, {})
    return fill(
        VisionTransformer(
            image_size=image_size or full.image_size,
            patch_size=full.patch_size,
            num_layers=DEPTH,
            num_heads=full.encoder.layers[0].num_heads,
            hidden_dim=full.hidden_dim,
            mlp_dim=full.mlp_dim,
        )
    )


def on_meta_device(name: str, arguments: Arguments) -> Any:
    """A whole model of timm or torchvision by name: shapes without values."""
    import timm
    import torch
    import torchvision

    with torch.device("meta"):
        if name in TORCHVISION:
            return torchvision.models.get_model(name, **arguments)
        return timm.create_model(name, **arguments)


def fill(model: Any) -> Any:
    """Draw every parameter anew: initial zeros and ones would hide what is mixed up.

    Class token, positions and biases are small, as `random_images` are: a wrong epsilon shows where
    the tokens that enter the first norm are not far above it.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and value.shape[0] > 1:
                value.normal_(0.0, value[0].numel() ** -0.5, generator=generator)
            elif value.ndim > 1 or name.endswith("bias"):
                value.normal_(0.0, 0.05, generator=generator)
            else:  # factors, of norms and of branches
                value.normal_(1.0, 0.3, generator=generator)
    return model


def random_images(size: tuple[int, int], channels: int) -> np.ndarray:
    """One small image [1, h, w, c]."""
    return np.random.default_rng(1).normal(0, 0.1, (1, *size, channels)).astype(np.float32)


def label_of(architecture: str, arguments: Arguments) -> str:
    """A name for an architecture with arguments of its own."""
    return ", ".join([architecture, *(f"{name}={value!r}" for name, value in arguments.items())])


def plain_timm_models() -> Iterator[tuple[str, Any]]:
    """Every name of timm's own ViT whose computation our `ViT` has, and its model on "meta"."""
    import timm
    from timm.layers import Attention, Mlp
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch.nn import Identity, LayerNorm

    for module in ("vision_transformer", "deit"):
        for name in timm.list_models(module=module):
            model = on_meta_device(name, {"depth": DEPTH})
            block = model.blocks[0]
            if (
                type(model) is VisionTransformer
                and type(block) is Block
                and [type(block.attn), type(block.mlp)] == [Attention, Mlp]
                and isinstance(block.norm1, LayerNorm)
                and block.attn.gate is None
                and all(
                    isinstance(norm, Identity)
                    for norm in (model.norm_pre, block.attn.norm, block.mlp.norm)
                )
                # Attention pooling leaves out class token and registers, which ours does not.
                and not (
                    model.attn_pool and model.num_prefix_tokens and not model.pool_include_prefix
                )
            ):
                yield name, model


def timm_config(model: Any) -> dict[str, Any]:
    """config.json as timm writes it beside the weights."""
    from timm.models._hub import save_config_for_hf

    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        save_config_for_hf(model, file.name)
        return json.loads(Path(file.name).read_text())


def shapes_of(model: Any, block: str) -> dict[str, list[int]]:
    """{name: shape} of a state_dict; of the blocks, which are all alike, one, as number {i}."""
    shapes: dict[str, list[int]] = {}
    for name, tensor in model.state_dict().items():
        if found := re.match(block, name):
            name = f"{name[: found.start(1)]}{{i}}{name[found.end(1) :]}"
        if shapes.setdefault(name, list(tensor.shape)) != list(tensor.shape):
            raise ValueError(f"{name}: shapes differ from block to block")
    return shapes


def timm_fields(model: Any) -> dict[str, Any]:
    """What our `ViT` has to be, read off the modules; layer_scale: whether there is one."""
    import torch

    block = model.blocks[0]
    pool = {"token": "cls", "avg": "gap", "map": "map"}[model.global_pool]
    if pool == "gap" and model.pool_include_prefix:
        pool = "tokens-mean"
    exact = isinstance(block.mlp.act, torch.nn.GELU) and block.mlp.act.approximate == "none"
    norms = {"tokens": model.norm, "pooled": model.fc_norm}
    return {
        "image_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "channels": model.in_chans,
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_dim": block.mlp.fc1.out_features,
        "num_classes": model.num_classes or None,
        "pool": pool,
        "class_token": model.has_class_token,
        "num_registers": model.num_reg_tokens,
        "class_position": model.has_class_token and not model.no_embed_class,
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": isinstance(block.attn.q_norm, torch.nn.LayerNorm),
        "layer_scale": not isinstance(block.ls1, torch.nn.Identity),
        "final_norm": next(
            (where for where, norm in norms.items() if isinstance(norm, torch.nn.LayerNorm)), "none"
        ),
        "activation": "gelu" if exact else "gelu_tanh",
        "norm_eps": block.norm1.eps,
    }


def torchvision_fields(model: Any) -> dict[str, Any]:
    """What our `ViT` has to be, read off the modules."""
    block = model.encoder.layers[0]
    return {
        "image_size": [model.image_size, model.image_size],
        "patch_size": [model.patch_size, model.patch_size],
        "width": model.hidden_dim,
        "depth": len(model.encoder.layers),
        "num_heads": block.num_heads,
        "mlp_dim": model.mlp_dim,
        "num_classes": model.num_classes,
        "norm_eps": block.ln_1.eps,
    }
