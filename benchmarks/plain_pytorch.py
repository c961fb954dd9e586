"""A ViT as one writes it in plain PyTorch, of the same shape and numbers as ours.

`python benchmarks/train_step.py` times it: pre-norm blocks, F.scaled_dot_product_attention, exact
GELU, patches by a strided convolution, AdamW in its fused form, eagerly or under torch.compile.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from vit_jax import ViT


class Block(nn.Module):
    def __init__(self, model: ViT):
        super().__init__()
        width, self.heads = model.width, model.num_heads
        inner = self.heads * (model.head_dim or width // self.heads)
        hidden = model.mlp_dim or 4 * width
        self.norm1, self.norm2 = (nn.LayerNorm(width, model.norm_eps) for _ in range(2))
        self.norm3 = nn.LayerNorm(width, model.norm_eps) if model.block_output_norm else None
        self.qkv = nn.Linear(width, 3 * inner, bias=model.qkv_bias)
        self.proj = nn.Linear(inner, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.last_gelu = model.mlp_output_activation
        self.dropout, self.attention_dropout = model.dropout, model.attention_dropout

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, x):
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        rate = self.attention_dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        x = x + self.drop(self.proj(seen.transpose(1, 2).flatten(2)))
        hidden = self.fc2(self.drop(F.gelu(self.fc1(self.norm2(x)))))
        x = x + self.drop(F.gelu(hidden) if self.last_gelu else hidden)
        return x if self.norm3 is None else self.norm3(x)


class PlainViT(nn.Module):
    """The fields of a `vit_jax.ViT` with class token and learned positions, as PyTorch modules."""

    def __init__(self, model: ViT, image_size: int):
        super().__init__()
        width, patch = model.width, model.patch_size
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image_size // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.depth))
        final = model.final_norm == "tokens"
        self.norm = nn.LayerNorm(width, model.norm_eps) if final else nn.Identity()
        self.head = nn.Linear(width, model.num_classes)
        self.embed_dropout = model.embed_dropout

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        if self.embed_dropout:
            x = F.dropout(x, self.embed_dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])

    def take(self, params: Any) -> None:
        """Take the parameters of our model; every one of them, or it is an error."""

        def linear(ours, name):
            return {
                f"{name}.weight": ours["kernel"].T,
                **({f"{name}.bias": ours["bias"]} if "bias" in ours else {}),
            }

        def norm(ours, name):
            return {f"{name}.weight": ours["scale"], f"{name}.bias": ours["bias"]}

        state = {"token": params["cls_token"], "positions": params["pos_embed"]}
        state |= {
            "patches.weight": params["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
            "patches.bias": params["patch_embed"]["bias"],
            **linear(params["head"], "head"),
        }
        if "norm" in params:
            state |= norm(params["norm"], "norm")
        for name, block in params["encoder"].items():
            prefix = f"blocks.{name.removeprefix('block_')}."
            for part in (block["attn"], block["mlp"]):
                for layer in part:
                    state |= linear(part[layer], prefix + layer)
            for layer in block.keys() - {"attn", "mlp"}:
                state |= norm(block[layer], prefix + layer)
        self.load_state_dict({name: torch.tensor(np.array(x)) for name, x in state.items()})


def timm_vit(name: str) -> nn.Module:
    """timm's model of the same size; none of its options but the size is changed."""
    import timm

    size = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}[name.partition("/")[0]]
    return timm.create_model(f"vit_{size}_patch16_224", num_classes=1000)


def torch_side(
    module: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    optim: Any,
    dtype: str,
    compiled: bool,
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], None]]:
    """(forward, training step, wait for the device) on normalised images [b, h, w, c]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(device).train()
    x = torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(labels, device=device, dtype=torch.long)
    adamw = torch.optim.AdamW(
        module.parameters(), optim.learning_rate, weight_decay=optim.weight_decay, fused=True
    )
    run = torch.compile(module) if compiled else module

    def precision():
        if dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device, torch.bfloat16)

    def forward():
        module.eval()
        with torch.inference_mode(), precision():
            return run(x)

    def step():
        module.train()
        adamw.zero_grad(set_to_none=True)
        with precision():
            loss = F.cross_entropy(run(x).float(), y)
        loss.backward()
        if optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), optim.clip_norm)
        adamw.step()
        return loss.detach()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    return forward, step, wait
