"""The layout of torchvision's VisionTransformer: one state_dict, without a description."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.source import Resampling
from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.weights.files import TensorFile, WeightsError
from vit_jax.weights.layout import (
    Layout,
    Rule,
    block_count,
    class_position,
    likely_heads,
    only_standard,
    same,
    square_grid,
    torch_conv,
    torch_linear,
    torch_norm,
)
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

BLOCK = "encoder.layers.encoder_layer_{i}"
QKV = tuple(
    # torch.nn.MultiheadAttention calls the fused weight and bias so, with no dot between.
    Rule(
        f"encoder/block_{{i}}/attn/qkv/{ours}",
        (f"{BLOCK}.self_attention.in_proj_{theirs}",),
        lambda parts: parts[0].T,
        lambda value, _: [value.T],
    )
    for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
)
RULES = (
    same("cls_token", "class_token"),
    same("pos_embed", "encoder.pos_embedding"),
    *torch_conv("patch_embed", "conv_proj"),
    *torch_norm("encoder/block_{i}/norm1", f"{BLOCK}.ln_1"),
    *QKV,
    *torch_linear("encoder/block_{i}/attn/proj", f"{BLOCK}.self_attention.out_proj"),
    *torch_norm("encoder/block_{i}/norm2", f"{BLOCK}.ln_2"),
    *torch_linear("encoder/block_{i}/mlp/fc1", f"{BLOCK}.mlp.0"),
    *torch_linear("encoder/block_{i}/mlp/fc2", f"{BLOCK}.mlp.3"),
    *torch_norm("norm", "encoder.ln"),
    *torch_linear("representation", "heads.pre_logits"),
    *torch_linear("head", "heads.head"),
)


def describe(
    tensors: TensorFile, config: dict[str, Any], folder: Path | None
) -> tuple[ViT, Preprocessing]:
    """The architecture, from shapes; heads from the published sizes, epsilon 1e-6 as fixed there.

    The mean and standard deviation are those of torchvision's published weights, ImageNet's; the
    resizing is that of the weights of this size.
    """
    shapes = tensors.shapes
    width, channels, patch_height, patch_width = shapes["conv_proj.weight"]
    depth = block_count(tensors, r"encoder\.layers\.encoder_layer_(\d+)\.")
    side = square_grid(tensors.path, shapes["encoder.pos_embedding"][1] - 1)
    head, pre = shapes.get("heads.head.weight"), shapes.get("heads.pre_logits.weight")
    heads, notes = config.get("num_heads"), ()
    fraction, filter_name, note = _resizing(width, patch_height, side * patch_height)
    if heads is None:
        heads = likely_heads(width)
        if width not in (768, 1024, 1280):  # the published ones
            notes = (f"num_heads={heads} assumed: the file does not say",)
    model = ViT(
        image_size=(side * patch_height, side * patch_width),
        patch_size=(patch_height, patch_width),
        channels=channels,
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=shapes["encoder.layers.encoder_layer_0.mlp.0.weight"][0],
        num_classes=head[0] if head else None,
        class_token=True,
        representation=pre[0] if pre else None,
        norm_eps=1e-6,
    )
    mean, std = IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]
    return model, Preprocessing(
        mean,
        std,
        notes=notes + note,
        crop_fraction=fraction,
        crop_rounding="even",
        interpolation=filter_name,
    )


def _resizing(width: int, patch: int, size: int) -> tuple[float, Resampling, tuple[str, ...]]:
    """Share that the centre keeps, filter and notes, of the published weights of an image size.

    IMAGENET1K_V1 resizes the shorter side to 256 (242 for L/16) for 224, bilinearly; the SWAG
    weights straight to their size, bicubically. At 224 pixels B/16 and L/16 have both.
    """
    of_swag = {(768, 16): 384, (1024, 16): 512, (1280, 14): 518}.get((width, patch))
    if size == of_swag or (width, patch, size) == (1280, 14, 224):
        return 1.0, "bicubic", ()
    fraction = 224 / 242 if (width, patch) == (1024, 16) else 0.875
    if (width, patch, size) in ((768, 32, 224), (1024, 32, 224)):
        return fraction, "bilinear", ()
    resized = math.floor(size / fraction + 1e-9)
    note = f"resizing: shorter side to {resized}, bilinear, assumed, as for IMAGENET1K_V1"
    if of_swag and size == 224:
        note += "; SWAG_LINEAR, which the file does not tell from it, takes 224, bicubic"
    return fraction, "bilinear", (note,)


def canonical(tensors: TensorFile, config: dict[str, Any]) -> TensorFile:
    """torchvision before 0.13 called the layers of an MLP linear_1 and linear_2."""

    def new(name: str) -> str:
        return name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")

    return tensors.rename({new(name): name for name in tensors.shapes})


def refuses(model: ViT) -> list[str]:
    """torchvision's ViT is the paper's; an image is a square of square patches."""
    reasons = only_standard(model, ("representation",))
    if len({*pair(model.image_size or 0)}) > 1 or len({*pair(model.patch_size)}) > 1:
        reasons.append(f"image_size={model.image_size} with patch_size={model.patch_size}")
    # Without a place for it in the file, a reader can only assume the usual number.
    if model.width % 64 or model.num_heads != likely_heads(model.width):
        reasons.append(f"num_heads={model.num_heads} with width={model.width}")
    return reasons


def loses(model: ViT, preprocessing: Preprocessing) -> list[str]:
    """A state_dict holds arrays alone, and the code around it is fixed."""
    lines = [
        "mean, std, class names and resizing are not stored: torchvision keeps them in its code"
    ]
    if model.norm_eps != 1e-6:
        lines.append(f"norm_eps={model.norm_eps:g} becomes 1e-06 there")
    if model.activation != "gelu":
        lines.append(f"activation={model.activation!r} becomes exact GELU there")
    return lines


def save(
    path: Path, arrays: dict[str, np.ndarray], model: ViT, preprocessing: Preprocessing
) -> None:
    """One .safetensors file, for `model.load_state_dict(safetensors.torch.load_file(path))`.

    Raises:
      WeightsError: the file name does not end in .safetensors.
    """
    from safetensors.numpy import save_file

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: name a file that ends in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata={"format": "pt"})


LAYOUT = Layout(
    name="torchvision",
    title="torchvision",
    rules=lambda model: RULES,
    interpolation=lambda config: "bicubic_corners",
    describe=describe,
    canonical=canonical,
    prepare=class_position,
    refuses=refuses,
    loses=loses,
    save=save,
)
