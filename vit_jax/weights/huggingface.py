"""The layout of Hugging Face's transformers: config.json and model.safetensors of a ViT."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.models import ViT
from vit_jax.models.layers import Activation
from vit_jax.models.patches import pair
from vit_jax.weights.files import TensorFile, WeightsError
from vit_jax.weights.layout import (
    Layout,
    class_position,
    only_standard,
    same,
    torch_conv,
    torch_linear,
    torch_norm,
)
from vit_jax.weights.preprocessing import Preprocessing
from vit_jax.weights.processor import processor_config, processor_loses, read_processor

BLOCK = "vit.encoder.layer.{i}"
RULES = (
    same("cls_token", "vit.embeddings.cls_token"),
    same("pos_embed", "vit.embeddings.position_embeddings"),
    *torch_conv("patch_embed", "vit.embeddings.patch_embeddings.projection"),
    *torch_norm("encoder/block_{i}/norm1", f"{BLOCK}.layernorm_before"),
    *torch_linear(
        "encoder/block_{i}/attn/qkv",
        *(f"{BLOCK}.attention.attention.{part}" for part in ("query", "key", "value")),
    ),
    *torch_linear("encoder/block_{i}/attn/proj", f"{BLOCK}.attention.output.dense"),
    *torch_norm("encoder/block_{i}/norm2", f"{BLOCK}.layernorm_after"),
    *torch_linear("encoder/block_{i}/mlp/fc1", f"{BLOCK}.intermediate.dense"),
    *torch_linear("encoder/block_{i}/mlp/fc2", f"{BLOCK}.output.dense"),
    *torch_norm("norm", "vit.layernorm"),
    *torch_linear("representation", "vit.pooler.dense"),
    *torch_linear("head", "classifier"),
)
# The names in memory since transformers 5, which a plain state_dict holds; folders keep the old.
IN_MEMORY = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def describe(
    tensors: TensorFile, config: dict[str, Any], folder: Path | None
) -> tuple[ViT, Preprocessing]:
    """The architecture of config.json; transformers' defaults stand where it is silent."""
    kind = config["model_type"]
    if kind != "vit":
        raise WeightsError(
            f"{folder}: model_type={kind!r} is another architecture: of the models of "
            "transformers, those of model_type 'vit' are read here"
        )
    if "quantization_config" in config:
        raise WeightsError(f"{folder}: quantised weights are not read: dequantise and save them")
    act, pooler_act = config.get("hidden_act", "gelu"), config.get("pooler_act", "tanh")
    if act not in ACTIVATIONS:
        raise WeightsError(f"{folder}: hidden_act={act!r} is none of {', '.join(ACTIVATIONS)}")
    head = tensors.shapes.get("classifier.weight")
    pooler = tensors.shapes.get("vit.pooler.dense.weight")
    if pooler is not None and pooler_act != "tanh":
        raise WeightsError(f"{folder}: pooler_act={pooler_act!r}: only 'tanh' is known here")
    model = ViT(
        image_size=_size(config.get("image_size", 224)),
        patch_size=_size(config.get("patch_size", 16)),
        channels=config.get("num_channels", 3),
        width=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        num_heads=config.get("num_attention_heads", 12),
        mlp_dim=config.get("intermediate_size", 3072),
        num_classes=head[0] if head else None,
        class_token=True,
        representation=pooler[0] if pooler else None,
        qkv_bias=config.get("qkv_bias", True),
        activation=ACTIVATIONS[act],
        norm_eps=config.get("layer_norm_eps", 1e-12),
    )
    preprocessing = read_processor(folder, model)
    names = _class_names(config, head[0] if head else 0)
    return model, dataclasses.replace(preprocessing, class_names=names)


def canonical(tensors: TensorFile, config: dict[str, Any]) -> TensorFile:
    """`ViTModel` is saved without the "vit." of `ViTForImageClassification`."""
    tensors = tensors.rename({_as_saved(name): name for name in tensors.shapes})
    if any(name.startswith("vit.") for name in tensors.shapes):
        # What pre-training leaves behind has no part in a classifier.
        left = ["vit.embeddings.mask_token", "decoder."]
        left += ["vit.pooler."] if "classifier.weight" in tensors.shapes else []
        return tensors.rename({n: n for n in tensors.shapes if not n.startswith(tuple(left))})
    return tensors.rename({f"vit.{name}": name for name in tensors.shapes})


def _as_saved(name: str) -> str:
    match = re.fullmatch(r"(vit\.)?layers\.(\d+)\.(.*)\.(\w+)", name)
    if not match:
        return name
    prefix, number, part, leaf = match.groups(default="")
    return f"{prefix}encoder.layer.{number}.{IN_MEMORY.get(part, part)}.{leaf}"


def refuses(model: ViT) -> list[str]:
    """Transformers' ViT is the paper's: class token, no extras, a pooler only without a head."""
    allowed = ("qkv_bias", "representation") if model.num_classes is None else ("qkv_bias",)
    return only_standard(model, allowed)


def loses(model: ViT, preprocessing: Preprocessing) -> list[str]:
    """What a user makes of the tokens has no place in the two JSON files, nor all resizing."""
    lines = ["pool='none' becomes 'cls' there"] if model.pool == "none" else []
    return lines + processor_loses(model, preprocessing)


def save(
    folder: Path, arrays: dict[str, np.ndarray], model: ViT, preprocessing: Preprocessing
) -> None:
    """config.json, preprocessor_config.json and model.safetensors, as `save_pretrained` does."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if model.num_classes is None:
        arrays = {name.removeprefix("vit."): array for name, array in arrays.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(model, preprocessing))
    _write_json(folder / "preprocessor_config.json", processor_config(model, preprocessing))


def _config(model: ViT, preprocessing: Preprocessing) -> dict[str, Any]:
    assert model.image_size is not None
    config: dict[str, Any] = {
        "architectures": ["ViTModel" if model.num_classes is None else "ViTForImageClassification"],
        "model_type": "vit",
        "image_size": _number(model.image_size),
        "patch_size": _number(model.patch_size),
        "num_channels": model.channels,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": 4 * model.width if model.mlp_dim is None else model.mlp_dim,
        "hidden_act": {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[
            model.activation
        ],
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": model.qkv_bias,
    }
    if model.representation is not None:
        config |= {"pooler_output_size": model.representation, "pooler_act": "tanh"}
    if model.num_classes is not None:
        names = preprocessing.class_names or [f"LABEL_{i}" for i in range(model.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def _class_names(config: dict[str, Any], count: int) -> tuple[str, ...] | None:
    """Names by label; None where the file holds only the stand-ins LABEL_0, LABEL_1, …"""
    found = {int(number): name for number, name in config.get("id2label", {}).items()}
    if sorted(found) != list(range(count)) or not found or found[0] == "LABEL_0":
        return None
    return tuple(found[number] for number in range(count))


def _size(size: int | list[int]) -> int | tuple[int, int]:
    return size if isinstance(size, int) else (size[0], size[1])


def _number(size: int | tuple[int, int]) -> int | list[int]:
    height, width = pair(size)
    return height if height == width else [height, width]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


LAYOUT = Layout(
    name="huggingface",
    title="Hugging Face",
    rules=lambda model: RULES,
    interpolation=lambda config: "bicubic",
    describe=describe,
    canonical=canonical,
    prepare=class_position,
    refuses=refuses,
    loses=loses,
    save=save,
)
