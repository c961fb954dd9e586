"""Multi-head self-attention."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models import initializers
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Dense, Dropout, Dtype, Norm, keep_factors, make_norm
from vit_jax.models.patches import divisors
from vit_jax.ops.attention import attend, cudnn, cudnn_takes
from vit_jax.ops.positions import rotary2d, rotate

AttentionMethod = Literal["auto", "einsum", "fused"]


def attention_weights(
    query: Float[Array, "b q k h"], key: Float[Array, "b n k h"], scale: float
) -> Float[Array, "b k q n"]:
    """softmax(query key^T * scale) per head, computed in float32 (arXiv 1706.03762, equation 1)."""
    logits = jnp.einsum("bqkh,bnkh->bkqn", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * scale, axis=-1)


def weighted_sum(
    weights: Float[Array, "b k q n"], value: Float[Array, "b n k h"]
) -> Float[Array, "b q k h"]:
    """weights value per head, in the type of the values."""
    return jnp.einsum("bkqn,bnkh->bqkh", weights.astype(value.dtype), value)


def by_two_products(query, key, value, scale):
    """Attention without dropout, in the plain form: [b, n, k, h] three times -> [b, n, k, h]."""
    return weighted_sum(attention_weights(query, key, scale), value)


def width_per_head(width: int, num_heads: int, head_dim: int | None) -> int:
    """`head_dim`, or width / num_heads; a ValueError where that is not a whole number."""
    if head_dim is not None:
        return head_dim
    if width % num_heads:
        raise ValueError(
            f"num_heads={num_heads} does not divide width={width}: use one of {divisors(width)} "
            "heads, or set head_dim (num_heads * head_dim need not equal the width)"
        )
    return width // num_heads


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused q/k/v product: [b, n, d] -> [b, n, d].

    The columns of the fused kernel are ordered [3 (q, k, v), num_heads, head_dim], as in timm.
    The weights [b, k, n, n] can be read with `mutable="intermediates"`, under "attention".

    Raises:
      ValueError: `num_heads` does not divide the width and no `head_dim` is given.
    """

    num_heads: int
    head_dim: int | None = None
    """Width of one head; None: width / num_heads."""
    qkv_bias: bool = True
    qk_scale: float | None = None
    """Factor on query key^T; None: head_dim ** -0.5."""
    qk_norm: bool = False
    """A norm on each head's query and on its key (arXiv 2302.05442, section 2)."""
    rope_grid: tuple[int, int] | None = None
    """Rows and columns of the patches, which are the last tokens: queries and keys are turned by
    their patch's place, see `ops.positions.rotary2d`. None: they are not."""
    position_scale: tuple[float, float] = (1.0, 1.0)
    """Height and width of a patch in the unit that `rope_grid` positions count."""
    norm: Norm = "layer"
    norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    """Dropout on the attention weights."""
    dropout: float = 0.0
    """Dropout after the output projection."""
    attention_method: AttentionMethod = "auto"
    """einsum: by two products; fused: by `jax.nn.dot_product_attention`, except where the weights
    are dropped out; auto: as is fastest on the device. Where the weights are asked for, by two
    products. Same numbers but for rounding."""
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        batch, num_tokens, width = x.shape
        head_dim = width_per_head(width, self.num_heads, self.head_dim)
        inner = self.num_heads * head_dim
        scale = head_dim**-0.5 if self.qk_scale is None else self.qk_scale
        qkv_init, proj_init = self._kernel_inits(width, head_dim)

        qkv = Dense(
            3 * inner,
            use_bias=self.qkv_bias,
            kernel_init=qkv_init,
            bias_init=initializers.dense_bias(self.init_scheme, width),
            dtype=self.dtype,
            name="qkv",
        )(x)
        q, k, v = (
            part.reshape(batch, num_tokens, self.num_heads, head_dim)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        if self.qk_norm:
            q = make_norm(self.norm, self.norm_eps, self.dtype, "q_norm")(q)
            k = make_norm(self.norm, self.norm_eps, self.dtype, "k_norm")(k)
        if self.rope_grid is not None:
            prefix = num_tokens - self.rope_grid[0] * self.rope_grid[1]
            angles = rotary2d(*self.rope_grid, head_dim, prefix, scale=self.position_scale)
            q, k = rotate(q, angles), rotate(k, angles)
        out = self._attend(q, k, v, scale, train)
        out = Dense(
            width,
            kernel_init=proj_init,
            bias_init=initializers.dense_bias(self.init_scheme, inner),
            dtype=self.dtype,
            name="proj",
        )(out.reshape(batch, num_tokens, inner))
        # Named: a number would depend on how the attention is computed, and with it the mask.
        return Dropout(self.dropout, name="drop")(out, train=train)

    def _kernel_inits(self, width, head_dim):
        """Those of q/k/v and of the output projection."""
        if self.init_scheme != "mimetic" or not self.is_initializing():
            fused = initializers.fused_kernel(self.init_scheme, parts=3)
            return fused, initializers.dense_kernel(self.init_scheme)
        # One draw makes both kernels, so neither uses the key of its own.
        key = self.make_rng("params")

        def init(which):
            def draw(own_key, shape, dtype=jnp.float32):
                del own_key
                drawn = initializers.mimetic_attention(key, width, self.num_heads, head_dim)
                return drawn[which].astype(dtype).reshape(shape)

            return draw

        return init(0), init(1)

    def _attend(self, q, k, v, scale, train):
        """[b, n, k, h] three times -> [b, n, k, h], by `attention_method`."""
        batch, num_tokens, heads, _ = q.shape
        rate, kept = self.attention_dropout if train else 0.0, None
        if rate:
            key = self.make_rng("dropout")
            kept = keep_factors(key, rate, (batch, heads, num_tokens, num_tokens))
        if self._weights_are_asked_for() or self.attention_method == "einsum":
            return self._by_two_products(q, k, v, scale, kept)
        if self.attention_method == "fused":
            if rate:
                return self._by_two_products(q, k, v, scale, kept)
            return jax.nn.dot_product_attention(q, k, v, scale=scale)
        if rate:
            return attend(q, k, v, scale, kept)
        if jax.default_backend() == "cpu":
            return attend(q, k, v, scale)
        on_gpu = functools.partial(cudnn if cudnn_takes(q) else by_two_products, scale=scale)
        others = functools.partial(by_two_products, scale=scale)
        # By the platform that is compiled for: on a machine with a GPU that can be the CPU.
        return jax.lax.platform_dependent(
            q, k, v, cpu=functools.partial(attend, scale=scale), cuda=on_gpu, default=others
        )

    def _by_two_products(self, q, k, v, scale, kept):
        weights = attention_weights(q, k, scale)
        self.sow("intermediates", "attention", weights)
        return weighted_sum(weights if kept is None else weights * kept, v)

    def _weights_are_asked_for(self) -> bool:
        return self.is_mutable_collection("intermediates") and not self.is_initializing()
