"""Multi-head self-attention."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models import initializers
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Dense, Dtype, layer_norm
from vit_jax.models.patches import divisors

AttentionMethod = Literal["einsum", "fused"]


def attention_weights(
    query: Float[Array, "b q k h"], key: Float[Array, "b n k h"], scale: float
) -> Float[Array, "b k q n"]:
    """softmax(query key^T * scale) per head, computed in float32 (arXiv 1706.03762, equation 1)."""
    logits = jnp.einsum("bqkh,bnkh->bkqn", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * scale, axis=-1)


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
    """A LayerNorm on each head's query and on its key (arXiv 2302.05442, section 2)."""
    norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    """Dropout on the attention weights."""
    dropout: float = 0.0
    """Dropout after the output projection."""
    attention_method: AttentionMethod = "einsum"
    """einsum: by two products; fused: by `jax.nn.dot_product_attention`, except where the weights
    themselves are asked for or dropped out. Same numbers but for rounding."""
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        batch, num_tokens, width = x.shape
        head_dim = width_per_head(width, self.num_heads, self.head_dim)
        inner = self.num_heads * head_dim
        scale = head_dim**-0.5 if self.qk_scale is None else self.qk_scale

        qkv = Dense(
            3 * inner,
            use_bias=self.qkv_bias,
            kernel_init=initializers.fused_kernel(self.init_scheme, parts=3),
            bias_init=initializers.dense_bias(self.init_scheme, width),
            dtype=self.dtype,
            name="qkv",
        )(x)
        q, k, v = (
            part.reshape(batch, num_tokens, self.num_heads, head_dim)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        if self.qk_norm:
            q = layer_norm(self.norm_eps, self.dtype, "q_norm")(q)
            k = layer_norm(self.norm_eps, self.dtype, "k_norm")(k)
        drops = train and self.attention_dropout > 0
        if self.attention_method == "fused" and not (drops or self._weights_are_asked_for()):
            out = jax.nn.dot_product_attention(q, k, v, scale=scale)
        else:
            weights = attention_weights(q, k, scale)
            self.sow("intermediates", "attention", weights)
            weights = nn.Dropout(self.attention_dropout)(weights, deterministic=not train)
            out = jnp.einsum("bkqn,bnkh->bqkh", weights.astype(v.dtype), v)
        out = Dense(
            width,
            kernel_init=initializers.dense_kernel(self.init_scheme),
            bias_init=initializers.dense_bias(self.init_scheme, inner),
            dtype=self.dtype,
            name="proj",
        )(out.reshape(batch, num_tokens, inner))
        return nn.Dropout(self.dropout)(out, deterministic=not train)

    def _weights_are_asked_for(self) -> bool:
        return self.is_mutable_collection("intermediates") and not self.is_initializing()
