"""The models of the four tutorials, written anew with plain `torch.nn` layers, and small."""

import dataclasses

import torch
from parity import layouts
from parity.attention import FusedAttention, PerHeadAttention, SeparateAttention
from parity.skeleton import Embeddings, FlatPatches, Stack, StridedPatches
from torch import nn
from torch.nn import functional

from vit_jax import ViT


class TutorialBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); returns the attention weights as well."""

    def __init__(self, width, hidden, attention):
        super().__init__()
        self.attention = attention
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def mlp(self, x):
        return self.shrink(functional.gelu(self.expand(self.before_mlp(x))))

    def forward(self, x):
        branch, weights = self.attention(self.before_attention(x))
        x = x + branch
        return x + self.mlp(x), weights

    def to_ours(self, state, name):
        qkv = self.attention.qkv_to_ours(state, f"{name}.attention")
        return {
            "attn": {"qkv": qkv, "proj": layouts.linear(state, f"{name}.attention.out")},
            "mlp": {
                "fc1": layouts.linear(state, f"{name}.expand"),
                "fc2": layouts.linear(state, f"{name}.shrink"),
            },
            "norm1": layouts.norm(state, f"{name}.before_attention"),
            "norm2": layouts.norm(state, f"{name}.before_mlp"),
        }


class NormedBlock(TutorialBlock):
    """Tutorial 1: a GELU after the MLP's second layer too, and a LayerNorm on the output."""

    def __init__(self, width, hidden, attention):
        super().__init__(width, hidden, attention)
        self.after = nn.LayerNorm(width)

    def mlp(self, x):
        return functional.gelu(super().mlp(x))

    def forward(self, x):
        x, weights = super().forward(x)
        return self.after(x), weights

    def to_ours(self, state, name):
        norm3 = layouts.norm(state, f"{name}.after")
        return super().to_ours(state, name) | {"norm3": norm3}


class ScaledBlock(TutorialBlock):
    """Tutorial 4: both branches are multiplied by learned factors, one per channel."""

    def __init__(self, width, hidden, attention):
        super().__init__(width, hidden, attention)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.empty(width)) for _ in range(2))

    def forward(self, x):
        branch, weights = self.attention(self.before_attention(x))
        x = x + self.gamma1 * branch
        return x + self.gamma2 * self.mlp(x), weights

    def to_ours(self, state, name):
        gammas = {f"layer_scale{i}": {"gamma": state[f"{name}.gamma{i}"]} for i in (1, 2)}
        return super().to_ours(state, name) | gammas


class Tutorial1(Stack):
    """Heads whose widths do not add up to the token's; no LayerNorm before the head."""

    image = (32, 32, 3)
    ours = ViT(
        patch_size=8,
        width=48,
        depth=2,
        num_heads=3,
        head_dim=24,
        mlp_dim=48,
        num_classes=10,
        qkv_bias=False,
        block_output_norm=True,
        mlp_output_activation=True,
        final_norm="none",
        norm_eps=1e-5,
    )

    def __init__(self):
        super().__init__(
            Embeddings(StridedPatches(3, 48, 8), 16, 48),
            [NormedBlock(48, 48, PerHeadAttention(48, 3, 24)) for _ in range(2)],
            nn.Linear(48, 10),
            norm=None,
        )


class Tutorial2(Stack):
    """Mean of all tokens, the class token among them; an explicit factor on q k^T."""

    image = (32, 32, 3)
    ours = ViT(
        patch_size=8,
        width=64,
        depth=2,
        num_heads=8,
        num_classes=10,
        pool="tokens-mean",
        final_norm="pooled",
        qkv_bias=False,
        qk_scale=0.2,
        norm_eps=1e-5,
    )

    def __init__(self):
        super().__init__(
            Embeddings(StridedPatches(3, 64, 8), 16, 64),
            [TutorialBlock(64, 256, FusedAttention(64, 8, False, 0.2)) for _ in range(2)],
            nn.Linear(64, 10),
            nn.LayerNorm(64),
        )

    def pool(self, x):
        return x.mean(dim=1)


class Tutorial3(Stack):
    """Patches are flattened and multiplied; ants or bees."""

    image = (16, 16, 3)
    ours = ViT(
        patch_size=4,
        width=60,
        depth=2,
        num_heads=5,
        mlp_dim=120,
        num_classes=2,
        patch_method="matmul",
        norm_eps=1e-5,
    )

    def __init__(self):
        super().__init__(
            Embeddings(FlatPatches(3, 60, 4), 16, 60),
            [TutorialBlock(60, 120, SeparateAttention(60, 5)) for _ in range(2)],
            nn.Linear(60, 2),
            nn.LayerNorm(60),
        )


class Tutorial4(Stack):
    """One channel, 256 x 256 pixels, three classes, learned factors on the branches."""

    image = (256, 256, 1)
    ours = ViT(
        patch_size=32,
        width=72,
        depth=2,
        num_heads=6,
        mlp_dim=144,
        num_classes=3,
        layer_scale=1e-4,
        norm_eps=1e-5,
    )
    class_token = True

    def __init__(self):
        super().__init__(
            Embeddings(StridedPatches(1, 72, 32), 64, 72, self.class_token),
            [ScaledBlock(72, 144, FusedAttention(72, 6)) for _ in range(2)],
            nn.Linear(72, 3),
            nn.LayerNorm(72),
        )


class Tutorial4Pooled(Tutorial4):
    """The same without a class token: the mean of the patches, then the LayerNorm."""

    ours = dataclasses.replace(Tutorial4.ours, pool="gap", final_norm="pooled")
    class_token = False

    def pool(self, x):
        return x.mean(dim=1)
