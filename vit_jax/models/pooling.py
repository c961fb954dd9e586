"""Attention pooling and sequence pooling."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models import initializers
from vit_jax.models.attention import attention_weights
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Activation, Dense, Dtype, Mlp, Norm, make_norm
from vit_jax.models.patches import divisors


class MapPool(nn.Module):
    """Multi-head attention pooling, one learned query over all tokens: [b, n, d] -> [b, d].

    Source: arXiv 2106.04560, section 3.2, after the Set Transformer (arXiv 1810.00825).
    """

    num_heads: int
    mlp_dim: int | None = None
    """Hidden width of the MLP; None: 4 * width."""
    activation: Activation = "gelu"
    norm: Norm = "layer"
    norm_eps: float = 1e-6
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        batch, _, width = x.shape
        if width % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide width={width}, and attention pooling "
                f"has no head_dim of its own: use one of {divisors(width)} heads"
            )
        head_dim = width // self.num_heads

        def dense(features, name, kernel_init):
            bias_init = initializers.dense_bias(self.init_scheme, width)
            return Dense(
                features, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name
            )

        kernel_init = initializers.dense_kernel(self.init_scheme)
        kv_init = initializers.fused_kernel(self.init_scheme, parts=2)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        query = dense(width, "q", kernel_init)(probe.astype(self.dtype))
        query = jnp.broadcast_to(query, (batch, 1, width))
        key, value = jnp.split(dense(2 * width, "kv", kv_init)(x), 2, axis=-1)
        query, key, value = (
            part.reshape(batch, -1, self.num_heads, head_dim) for part in (query, key, value)
        )
        weights = attention_weights(query, key, head_dim**-0.5)
        self.sow("intermediates", "attention", weights)
        pooled = jnp.einsum("bkqn,bnkh->bqkh", weights.astype(value.dtype), value)
        pooled = dense(width, "proj", kernel_init)(pooled.reshape(batch, 1, width))

        mlp = Mlp(
            4 * width if self.mlp_dim is None else self.mlp_dim,
            activation=self.activation,
            init_scheme=self.init_scheme,
            dtype=self.dtype,
            name="mlp",
        )
        pooled = pooled + mlp(make_norm(self.norm, self.norm_eps, self.dtype, "norm")(pooled))
        return pooled[:, 0]


class SeqPool(nn.Module):
    """The mean of the tokens under learned weights, softmax(x w + b): [b, n, d] -> [b, d].

    Source: sequence pooling of the Compact Transformers, arXiv 2104.05704.
    """

    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        logits = Dense(
            1,
            kernel_init=initializers.dense_kernel(self.init_scheme),
            bias_init=initializers.dense_bias(self.init_scheme, x.shape[-1]),
            dtype=self.dtype,
            name="score",
        )(x)
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=1)
        # As one head that one query asks, as in `MapPool`.
        self.sow("intermediates", "attention", weights[:, None, None, :, 0])
        return jnp.einsum("bnq,bnd->bd", weights.astype(x.dtype), x)
