"""A ViT as one usually writes it in Flax: Linen's own layers on [b, n, d].

`python benchmarks/train_step.py` times it: nn.Dense, nn.MultiHeadDotProductAttention, nn.LayerNorm
and nn.gelu, as examples and tutorials have them, with the numbers of ours.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax import ViT


class UsualBlock(nn.Module):
    model: ViT

    @nn.compact
    def __call__(self, x, *, train=False):
        model, width = self.model, x.shape[-1]
        dtype = model.dtype or "float32"
        drop = nn.Dropout(model.dropout, deterministic=not train)
        inner = model.num_heads * (model.head_dim or width // model.num_heads)
        y = nn.LayerNorm(model.norm_eps, dtype=dtype, name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(
            model.num_heads,
            qkv_features=inner,
            out_features=width,
            use_bias=model.qkv_bias,
            dropout_rate=model.attention_dropout,
            deterministic=not train,
            dtype=dtype,
            name="attn",
        )(y)
        x = x + drop(y)
        y = nn.LayerNorm(model.norm_eps, dtype=dtype, name="norm2")(x)
        y = nn.Dense(model.mlp_dim or 4 * width, dtype=dtype, name="fc1")(y)
        y = drop(nn.gelu(y, approximate=False))
        y = nn.Dense(width, dtype=dtype, name="fc2")(y)
        x = x + drop(nn.gelu(y, approximate=False) if model.mlp_output_activation else y)
        if model.block_output_norm:
            x = nn.LayerNorm(model.norm_eps, dtype=dtype, name="norm3")(x)
        return x


class UsualViT(nn.Module):
    """The fields of a `vit_jax.ViT` with class token and learned positions, in the usual layers."""

    model: ViT

    @nn.compact
    def __call__(self, images, *, train=False):
        model = self.model
        dtype = model.dtype or "float32"
        patch = (model.patch_size, model.patch_size)
        x = nn.Conv(model.width, patch, patch, "VALID", dtype=dtype, name="patches")(images)
        x = x.reshape(len(x), -1, model.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, model.width))
        token = jnp.broadcast_to(token.astype(dtype), (len(x), 1, model.width))
        x = jnp.concatenate([token, x], axis=1)
        shape = (1, *x.shape[1:])
        x = x + self.param("positions", nn.initializers.normal(0.02), shape).astype(dtype)
        x = nn.Dropout(model.embed_dropout, deterministic=not train)(x)
        for i in range(model.depth):
            x = UsualBlock(model, name=f"block_{i}")(x, train=train)
        if model.final_norm == "tokens":
            x = nn.LayerNorm(model.norm_eps, dtype=dtype, name="norm")(x)
        return nn.Dense(model.num_classes, dtype=dtype, name="head")(x[:, 0])


def usual_params(params: Any, model: ViT) -> Any:
    """Our model's parameters under the usual layers' names.

    Linen has either all biases of attention or none: where ours has none on q, k and v, that of
    the projection falls away too.
    """
    heads = model.num_heads

    def attention(ours):
        names = ("query", "key", "value")
        kernels = np.split(ours["qkv"]["kernel"], 3, axis=1)
        found = {
            name: {"kernel": kernel.reshape(len(kernel), heads, -1)}
            for name, kernel in zip(names, kernels, strict=True)
        }
        proj = ours["proj"]["kernel"]
        found["out"] = {"kernel": proj.reshape(heads, -1, proj.shape[1])}
        if model.qkv_bias:
            for name, bias in zip(names, np.split(ours["qkv"]["bias"], 3), strict=True):
                found[name]["bias"] = bias.reshape(heads, -1)
            found["out"]["bias"] = ours["proj"]["bias"]
        return found

    blocks = {
        name: {"attn": attention(block["attn"]), **block["mlp"]}
        | {layer: block[layer] for layer in block.keys() - {"attn", "mlp"}}
        for name, block in params["encoder"].items()
    }
    rest = {name: params[name] for name in ("norm", "head") if name in params}
    return {
        "patches": params["patch_embed"],
        "token": params["cls_token"],
        "positions": params["pos_embed"],
        **blocks,
        **rest,
    }
