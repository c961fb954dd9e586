"""The transformer block and the stack of blocks."""

from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models.attention import AttentionMethod, SelfAttention
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Activation, DropPath, Dtype, LayerScale, Mlp, layer_norm

Remat = Literal["none", "full", "dots"]

_KEPT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
"""What the backward pass is given of a block besides its input, by the word of `Remat`."""


class Block(nn.Module):
    """Pre-norm transformer block, [b, n, d] -> [b, n, d]: x + attn(norm(x)), then x + mlp(norm(x)).

    Source: arXiv 2010.11929, equations 2 and 3. `LayerScale` and `DropPath`, where asked for, act
    on both residual branches.
    """

    num_heads: int
    head_dim: int | None = None
    mlp_dim: int | None = None
    """Hidden width of the MLP; None: 4 * width."""
    qkv_bias: bool = True
    qk_scale: float | None = None
    qk_norm: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    """Initial value of LayerScale; None: no LayerScale."""
    output_norm: bool = False
    """A LayerNorm on the block's output."""
    mlp_output_activation: bool = False
    """A second activation after the MLP's second Dense."""
    attention_method: AttentionMethod = "auto"
    activation: Activation = "gelu"
    norm_eps: float = 1e-6
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        def residual(x, branch, number):
            if self.layer_scale is not None:
                name = f"layer_scale{number}"
                branch = LayerScale(self.layer_scale, dtype=self.dtype, name=name)(branch)
            return x + DropPath(self.drop_path, name=f"drop_path{number}")(branch, train=train)

        attention = SelfAttention(
            self.num_heads,
            head_dim=self.head_dim,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            attention_dropout=self.attention_dropout,
            dropout=self.dropout,
            attention_method=self.attention_method,
            init_scheme=self.init_scheme,
            dtype=self.dtype,
            name="attn",
        )
        mlp = Mlp(
            4 * x.shape[-1] if self.mlp_dim is None else self.mlp_dim,
            dropout=self.dropout,
            activation=self.activation,
            activate_output=self.mlp_output_activation,
            init_scheme=self.init_scheme,
            dtype=self.dtype,
            name="mlp",
        )
        normed = layer_norm(self.norm_eps, self.dtype, "norm1")(x)
        x = residual(x, attention(normed, train=train), 1)
        normed = layer_norm(self.norm_eps, self.dtype, "norm2")(x)
        x = residual(x, mlp(normed, train=train), 2)
        if self.output_norm:
            x = layer_norm(self.norm_eps, self.dtype, "norm3")(x)
        return x


class Encoder(nn.Module):
    """`depth` blocks: [b, n, d] -> [b, n, d].

    `block` makes one block from `drop_path` and `name`: `functools.partial(Block, num_heads=3)`.
    The drop-path rate grows linearly from 0 in the first block to `drop_path` in the last
    (arXiv 1603.09382, section 3).
    """

    depth: int
    block: Callable[..., nn.Module]
    drop_path: float = 0.0
    remat: Remat = "none"
    """What the backward pass computes again, instead of keeping it. none: nothing. full: all but
    the blocks' inputs (arXiv 1604.06174). dots: all but those and the results of the linear layers,
    so elementwise parts and attention's two products, which take much memory and few operations
    (selective recomputation, arXiv 2205.05198, section 5)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        # A function of the module, since `train` has to stay a Python bool.
        def run(block, x):
            return block(x, train=train)

        if self.remat != "none":
            run = nn.remat(run, policy=_KEPT[self.remat])
        for i in range(self.depth):
            rate = self.drop_path * i / max(self.depth - 1, 1)
            x = run(self.block(drop_path=rate, name=f"block_{i}"), x)
        return x
