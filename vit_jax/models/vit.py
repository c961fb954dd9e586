"""The Vision Transformer (arXiv 2010.11929).

Axes: b batch, h w pixels, c channels, n tokens, d width, k heads.
"""

import functools
from typing import Literal, get_args, get_origin, get_type_hints

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Num

from vit_jax.models import initializers
from vit_jax.models.attention import AttentionMethod
from vit_jax.models.encoder import Block, DropPathSchedule, Encoder, Remat
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Activation, Dense, Dropout, Dtype, Norm, make_norm
from vit_jax.models.patches import PatchDropout, PatchEmbed, grid_size, pair
from vit_jax.models.pooling import MapPool, SeqPool
from vit_jax.ops.positions import sincos2d

Pool = Literal["cls", "gap", "tokens-mean", "map", "seq", "none"]
Positions = Literal["learned", "sincos2d", "none"]
FinalNorm = Literal["tokens", "pooled", "none"]
PatchMethod = Literal["conv", "matmul"]


class ViT(nn.Module):
    """Vision Transformer: images [b, h, w, c] -> logits [b, num_classes].

    The fields are the architecture; with the defaults it is ViT-B/16 without a head. Tokens are
    ordered class token, registers, patches row by row; see `features` for what else can be read.

    >>> import jax, jax.numpy as jnp
    >>> model = ViT(patch_size=4, width=48, depth=2, num_heads=3, num_classes=10)
    >>> images = jnp.zeros((2, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images)
    >>> model.apply(variables, images).shape
    (2, 10)

    Raises:
      ValueError: when called on a shape that the fields do not allow; names the field, the value
        and what would be right.
    """

    patch_size: int | tuple[int, int] = 16
    """Pixels on a side of a patch, or (height, width)."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads of a block."""
    head_dim: int | None = None
    """Channels of a head; None: width / num_heads."""
    mlp_dim: int | None = None
    """Hidden channels of a block's MLP; None: 4 * width."""
    num_classes: int | None = None
    """Outputs of the head; None: no head (in a training: as many as the data has classes)."""
    image_size: int | tuple[int, int] | None = None
    """Declared pixels on a side, or (height, width), checked on every call; None: any."""
    channels: int | None = None
    """Declared channels of an image, checked on every call; None: any."""
    pool: Pool = "cls"
    """One vector from all: class token, mean of patches, mean of all tokens, by attention (map), by
    one learned weight per token (seq), or none."""
    class_token: bool | None = None
    """Prepend a class token; None: where the pool needs one (cls, tokens-mean)."""
    num_registers: int = 0
    """Extra learned tokens without positions (arXiv 2309.16588)."""
    positions: Positions = "learned"
    """Position embedding: learned, fixed sine-cosine, or none."""
    rope: bool = False
    """Rotary positions on the queries and keys of patches, whatever `positions` adds to tokens
    (axial RoPE, arXiv 2403.13298)."""
    class_position: bool = True
    """Learned positions have an entry for the class token too, as in the paper."""
    representation: int | None = None
    """Width of a Dense + tanh before the head (pre-training heads have it); None: none."""
    final_norm: FinalNorm = "tokens"
    """The last norm: on all tokens before pooling, on the pooled vector, or none."""
    qkv_bias: bool = True
    """Biases in the q/k/v projection."""
    qk_scale: float | None = None
    """Factor on query key^T; None: head_dim ** -0.5."""
    qk_norm: bool = False
    """A norm on each head's query and on its key."""
    dropout: float = 0.0
    """Dropout rate after the attention's output and after both layers of the MLP."""
    attention_dropout: float = 0.0
    """Dropout rate on the attention weights."""
    embed_dropout: float = 0.0
    """Dropout rate on the sum of tokens and positions."""
    patch_dropout: float = 0.0
    """Share of the patches of each image that are left out in training, with their cost."""
    drop_path: float = 0.0
    """Rate of dropping the last block's branches per example."""
    drop_path_schedule: DropPathSchedule = "linear"
    """The rates of the other blocks: linearly less down to 0 in the first, or all the same."""
    layer_scale: float | None = None
    """Initial value of a learned factor per channel on each residual branch; None: none."""
    block_output_norm: bool = False
    """A norm on every block's output."""
    mlp_output_activation: bool = False
    """A second activation after the MLP's second layer."""
    activation: Activation = "gelu"
    """gelu: exact, as in PyTorch; gelu_tanh: the tanh approximation."""
    norm: Norm = "layer"
    """What norms are: LayerNorm, or RMSNorm (arXiv 1910.07467)."""
    norm_eps: float = 1e-6
    """Epsilon of every norm."""
    patch_method: PatchMethod = "conv"
    """How patches are projected: strided convolution, or reshape and product. Same numbers."""
    patch_kernel_size: int | tuple[int, int] | None = None
    """The patch size the patch kernel is stored for; it is resized to `patch_size` in every pass,
    so that one set of weights takes several (arXiv 2212.08013). Positions without a table are
    counted in such patches. None: `patch_size`."""
    shifted_patches: bool = False
    """Tokens see the four diagonal neighbourhoods of their patch too, as a convolution would let
    them (shifted patch tokenization, arXiv 2112.13492)."""
    attention_method: AttentionMethod = "auto"
    """How attention is computed: by two products, by JAX's fused function, or as is fastest on the
    device (auto). Same numbers but for rounding."""
    init_scheme: Init = "paper"
    """Initial values: those of the paper's code, PyTorch's defaults, or mimetic: the paper's but in
    attention, which starts as if it had been trained (arXiv 2305.09828)."""
    head_zero_init: bool = True
    """Start the head at zero, as the paper's code does: the first logits are all 0."""
    cls_init_stddev: float = 0.0
    """Standard deviation of the class token's initial values (the paper's code: 0)."""
    position_init_stddev: float = 0.02
    """Standard deviation of the learned positions' initial values."""
    dtype: Dtype | None = None
    """Compute type; parameters, softmax and norm statistics stay float32. None: float32."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it. none: nothing; full: all but the
    blocks' inputs: least memory, about a third more time; dots: all but those and the linear
    layers' results: less memory, a few percent more operations."""
    scan_layers: bool = False
    """Trace and compile one block and run it `depth` times. In every step the blocks' weights are
    copied into one stack, and their gradients out of one: memory for a second copy of both. Each of
    these copies is compiled by itself, so on a CPU a training step compiles for longer than without
    (docs/performance.md). Same names of parameters, same numbers but for rounding; dropout and
    drop-path draw other masks."""

    def __call__(
        self, images: Num[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b ..."]:
        """Logits [b, num_classes]; without a head the pooled features [b, d].

        With `pool="none"` one row per token: [b, n, num_classes] or [b, n, d].
        `train=True` needs `rngs={"dropout": key}` when a dropout or drop-path rate is above 0.
        """
        out = self.features(images, train=train)
        return out["pooled"] if self.num_classes is None else out["logits"]

    @nn.compact
    def features(
        self, images: Num[Array | np.ndarray, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b ..."]]:
        """What the model computes on its way: `model.apply(variables, images, method="features")`.

        Returns:
          tokens: [b, n, d], the encoder's output (normalised where `final_norm="tokens"`);
          pooled: [b, d] (`pool="none"`: [b, n, d]), after the representation layer if there is one;
          logits: as `__call__` returns them; missing without a head.
        """
        dtype = self.dtype or "float32"
        rows, columns = self._check(images.shape)
        tokens = PatchEmbed(
            self.width,
            self.patch_size,
            self.patch_method,
            kernel_size=self.patch_kernel_size,
            shifted=self.shifted_patches,
            norm=self.norm,
            norm_eps=self.norm_eps,
            init_scheme=self.init_scheme,
            dtype=dtype,
            name="patch_embed",
        )(jnp.asarray(images, dtype))
        tokens = self._add_class_and_positions(tokens, rows, columns)
        drop = PatchDropout(self.patch_dropout, self.num_prefix_tokens, name="patch_drop")
        tokens = drop(tokens, train=train)
        tokens = Dropout(self.embed_dropout)(tokens, train=train)

        block = functools.partial(
            Block,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            qk_norm=self.qk_norm,
            rope_grid=(rows, columns) if self.rope else None,
            position_scale=self.position_scale,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            layer_scale=self.layer_scale,
            output_norm=self.block_output_norm,
            mlp_output_activation=self.mlp_output_activation,
            attention_method=self.attention_method,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            init_scheme=self.init_scheme,
            dtype=dtype,
        )
        encoder = Encoder(
            self.depth,
            block,
            self.drop_path,
            self.drop_path_schedule,
            self.remat,
            self.scan_layers,
            name="encoder",
        )
        tokens = encoder(tokens, train=train)
        if self.final_norm == "tokens":
            tokens = make_norm(self.norm, self.norm_eps, dtype, "norm")(tokens)

        pooled = self._pool(tokens)
        if self.final_norm == "pooled":
            pooled = make_norm(self.norm, self.norm_eps, dtype, "norm")(pooled)
        if self.representation is not None:
            pooled = self._linear(pooled, self.representation, "representation", zeros=False)
            pooled = jnp.tanh(pooled)
        out = {"tokens": tokens, "pooled": pooled}
        if self.num_classes is not None:
            out["logits"] = self._linear(pooled, self.num_classes, "head", self.head_zero_init)
        return out

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token, by `class_token` or because the pool needs one."""
        if self.class_token is None:
            return self.pool in ("cls", "tokens-mean")
        return self.class_token

    @property
    def position_scale(self) -> tuple[float, float]:
        """Height and width of a patch in stored patches, which fixed and rotary positions count."""
        stored = pair(self.patch_kernel_size or self.patch_size)
        height, width = (p / s for p, s in zip(pair(self.patch_size), stored, strict=True))
        return height, width

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: the class token and the registers."""
        return int(self.has_class_token) + self.num_registers

    def _add_class_and_positions(self, tokens, rows, columns):
        """[b, patches, d] -> [b, n, d]: positions added, class token and registers prepended."""
        batch, _, width = tokens.shape

        def prepend(name, count, stddev):
            extra = self.param(name, nn.initializers.normal(stddev), (1, count, width))
            extra = jnp.broadcast_to(extra.astype(tokens.dtype), (batch, count, width))
            return jnp.concatenate([extra, tokens], axis=1)

        def add_positions(tokens):
            shape = (1, *tokens.shape[1:])
            self._check_positions(shape, rows, columns)
            init = nn.initializers.normal(self.position_init_stddev)
            return tokens + self.param("pos_embed", init, shape).astype(tokens.dtype)

        if self.positions == "sincos2d":
            table = sincos2d(rows, columns, width, scale=self.position_scale)
            tokens = tokens + table.astype(tokens.dtype)
        if self.positions == "learned" and not self.class_position:
            tokens = add_positions(tokens)
        if self.has_class_token:
            tokens = prepend("cls_token", 1, self.cls_init_stddev)
        if self.positions == "learned" and self.class_position:
            tokens = add_positions(tokens)
        if self.num_registers:
            # Registers carry no position and stand between the class token and the patches.
            first = int(self.has_class_token)
            cls, tokens = tokens[:, :first], tokens[:, first:]
            tokens = jnp.concatenate(
                [cls, prepend("register_tokens", self.num_registers, 0.02)], axis=1
            )
        return tokens

    def _pool(self, tokens):
        """[b, n, d] -> [b, d], or unchanged with `pool="none"`."""
        match self.pool:
            case "cls":
                return tokens[:, 0]
            case "gap":
                return tokens[:, self.num_prefix_tokens :].mean(axis=1)
            case "tokens-mean":
                return tokens.mean(axis=1)
            case "map":
                pool = MapPool(
                    self.num_heads,
                    mlp_dim=self.mlp_dim,
                    activation=self.activation,
                    norm=self.norm,
                    norm_eps=self.norm_eps,
                    init_scheme=self.init_scheme,
                    dtype=self.dtype or "float32",
                    name="map_pool",
                )
                return pool(tokens)
            case "seq":
                pool = SeqPool(self.init_scheme, self.dtype or "float32", name="seq_pool")
                return pool(tokens)
            case _:
                return tokens

    def _linear(self, x, features, name, zeros):
        kernel_init = initializers.head_kernel(self.init_scheme, zeros)
        bias_init = initializers.dense_bias(self.init_scheme, x.shape[-1])
        if zeros:
            bias_init = nn.initializers.zeros
        dtype = self.dtype or "float32"
        return Dense(
            features, kernel_init=kernel_init, bias_init=bias_init, dtype=dtype, name=name
        )(x)

    def _check(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The grid of patches of images of this shape; a ValueError where the fields forbid it."""
        _check_choices(self)
        if len(shape) != 4:
            raise ValueError(f"images have shape {shape}: expected four axes, [b, h, w, c]")
        _, height, width, channels = shape
        if self.image_size is not None and pair(self.image_size) != (height, width):
            raise ValueError(
                f"image_size={self.image_size} was declared, but the images are {height}x{width} "
                "pixels: resize them, or declare their size"
            )
        if self.channels is not None and self.channels != channels:
            raise ValueError(
                f"channels={self.channels} was declared, but the images of shape {shape} have "
                f"{channels}: images are [b, h, w, {self.channels}]"
            )
        if self.pool == "cls" and not self.has_class_token:
            raise ValueError(
                "class_token=False with pool='cls': use pool='gap', 'map', 'seq' or 'none'"
            )
        if self.rope and self.patch_dropout:
            raise ValueError(
                f"patch_dropout={self.patch_dropout} with rope=True: each image would keep other "
                "places, and rope turns all images alike; choose one"
            )
        return grid_size((height, width), self.patch_size)

    def _check_positions(self, shape: tuple[int, ...], rows: int, columns: int) -> None:
        if not self.has_variable("params", "pos_embed"):
            return
        found = self.get_variable("params", "pos_embed").shape
        if found != shape:
            raise ValueError(
                f"the images make {rows}x{columns} patches, so pos_embed should have shape "
                f"{shape}, but the parameters hold {found}: resize the images to the size the "
                "model was initialised with, or resample pos_embed"
            )


def _check_choices(model: ViT) -> None:
    """Raise a ValueError where a field that takes one of a few words holds another."""
    for field, hint in get_type_hints(type(model)).items():
        if get_origin(hint) is not Literal:
            continue
        value = getattr(model, field)
        if value not in get_args(hint):
            raise ValueError(f"{field}={value!r}: use one of {', '.join(get_args(hint))}")
