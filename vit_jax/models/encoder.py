"""The transformer block and the stack of blocks."""

import functools
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models.attention import AttentionMethod, SelfAttention
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Activation, DropPath, Dtype, LayerScale, Mlp, Norm, make_norm
from vit_jax.models.stacking import stack_layers

Remat = Literal["none", "full", "dots"]
DropPathSchedule = Literal["linear", "constant"]

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
    rope_grid: tuple[int, int] | None = None
    position_scale: tuple[float, float] = (1.0, 1.0)
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float | Float[Array, ""] = 0.0
    layer_scale: float | None = None
    """Initial value of LayerScale; None: no LayerScale."""
    output_norm: bool = False
    """A norm on the block's output."""
    mlp_output_activation: bool = False
    """A second activation after the MLP's second Dense."""
    attention_method: AttentionMethod = "auto"
    activation: Activation = "gelu"
    norm: Norm = "layer"
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

        norm = functools.partial(make_norm, self.norm, self.norm_eps, self.dtype)
        attention = SelfAttention(
            self.num_heads,
            head_dim=self.head_dim,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            qk_norm=self.qk_norm,
            rope_grid=self.rope_grid,
            position_scale=self.position_scale,
            norm=self.norm,
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
        normed = norm(name="norm1")(x)
        x = residual(x, attention(normed, train=train), 1)
        normed = norm(name="norm2")(x)
        x = residual(x, mlp(normed, train=train), 2)
        if self.output_norm:
            x = norm(name="norm3")(x)
        return x


class Encoder(nn.Module):
    """`depth` blocks: [b, n, d] -> [b, n, d].

    `block` makes one block from `drop_path` and `name`: `functools.partial(Block, num_heads=3)`.
    The drop-path rate grows linearly from 0 in the first block to `drop_path` in the last
    (arXiv 1603.09382, section 3), or is the same in all.
    """

    depth: int
    block: Callable[..., nn.Module]
    drop_path: float = 0.0
    drop_path_schedule: DropPathSchedule = "linear"
    remat: Remat = "none"
    """What the backward pass computes again, instead of keeping it. none: nothing. full: all but
    the blocks' inputs (arXiv 1604.06174). dots: all but those and the results of the linear layers,
    so elementwise parts and attention's two products, which take much memory and few operations
    (selective recomputation, arXiv 2205.05198, section 5)."""
    scan_layers: bool = False
    """Compile one block and run it `depth` times, by `jax.lax.scan` over the stacked parameters of
    all; see `ViT.scan_layers`. The parameters keep their names. Runs block by block, as without,
    where "intermediates" are asked for. Drops other examples than without, equally many."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        # Initialising makes parameters under each block's name, and what a block sows could not
        # leave the loop.
        unrolled = self.is_initializing() or self.is_mutable_collection("intermediates")
        if self.scan_layers and self.depth > 1 and not unrolled:
            return self._scanned(x, train)

        # A function of the module, since `train` has to stay a Python bool.
        def run(block, x):
            return block(x, train=train)

        if self.remat != "none":
            run = nn.remat(run, policy=_KEPT[self.remat])
        for i, rate in enumerate(self._drop_path_rates()):
            x = run(self.block(drop_path=rate, name=f"block_{i}"), x)
        return x

    def _drop_path_rates(self) -> list[float]:
        if self.drop_path_schedule == "constant":
            return [self.drop_path] * self.depth
        return [self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]

    def _scanned(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """One program for all blocks, which a loop runs on the parameters of each in turn."""
        rates = keys = None
        if train and self.drop_path > 0:
            rates = jnp.asarray(self._drop_path_rates(), jnp.float32)
        # Without a key nothing is dropped, or the block says that it needs one.
        if train and self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), self.depth)

        def run(x, layer):
            params, rate, key = layer
            # Without a parent: a module of this one would look for parameters under its own name.
            block = self.block(drop_path=0.0 if rate is None else rate, parent=None)
            rngs = None if key is None else {"dropout": key}
            # Flax types `apply` for all its uses.
            return cast(Any, block.apply)({"params": params}, x, train=train, rngs=rngs), None

        if self.remat != "none":
            # Two loops, forward and backward: no compiler merges what stands in both.
            run = jax.checkpoint(run, prevent_cse=False, policy=_KEPT[self.remat])
        x, _ = jax.lax.scan(run, x, (stack_layers(self._block_params()), rates, keys))
        return x

    def _block_params(self) -> dict[str, Any]:
        """The parameters that were given, of this depth's blocks."""
        params = self.variables.get("params", {})
        names = [f"block_{i}" for i in range(self.depth)]
        if missing := [name for name in names if name not in params]:
            raise ValueError(
                f"depth={self.depth} needs the parameters of block_0 to {names[-1]}, but there is "
                f"no {missing[0]}: choose the depth that the model was initialised with"
            )
        return {name: params[name] for name in names}
