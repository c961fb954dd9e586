"""Self-attention in the three ways in which the tutorials write it.

Each maps tokens [b, n, d] to tokens [b, n, d] and attention weights [b, k, n, n].
"""

import torch
from parity import layouts
from torch import nn


def split_heads(x, num_heads):
    """[b, n, k * h] -> [b, k, n, h]."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def attend(q, k, v, scale):
    """From q, k and v, [b, k, n, h] each: what the heads see, [b, n, k * h], and the weights."""
    weights = torch.softmax(q @ k.transpose(2, 3) * scale, dim=3)
    return (weights @ v).transpose(1, 2).flatten(2), weights


class PerHeadAttention(nn.Module):
    """One product without biases: q, k and v of the first head, then of the next."""

    def __init__(self, width, num_heads, head_dim):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim, bias=False)
        self.out = nn.Linear(num_heads * head_dim, width)

    def forward(self, x):
        q, k, v = split_heads(self.qkv(x), self.num_heads).split(self.head_dim, dim=3)
        seen, weights = attend(q, k, v, self.head_dim**-0.5)
        return self.out(seen), weights

    def qkv_to_ours(self, state, name):
        return layouts.per_head_qkv(state, f"{name}.qkv", self.num_heads)


class FusedAttention(nn.Module):
    """One product: q of all heads, then k, then v."""

    def __init__(self, width, num_heads, bias=True, scale=None):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5 if scale is None else scale
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=2))
        seen, weights = attend(q, k, v, self.scale)
        return self.out(seen), weights

    def qkv_to_ours(self, state, name):
        return layouts.linear(state, f"{name}.qkv")


class SeparateAttention(nn.Module):
    """Three layers for q, k and v."""

    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, (width // num_heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (split_heads(f(x), self.num_heads) for f in (self.query, self.key, self.value))
        seen, weights = attend(q, k, v, self.scale)
        return self.out(seen), weights

    def qkv_to_ours(self, state, name):
        return layouts.separate_qkv(
            state, *(f"{name}.{part}" for part in ("query", "key", "value"))
        )
