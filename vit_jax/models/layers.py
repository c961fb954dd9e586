"""The small parts of a block: Dense on flattened tokens, LayerNorm, Mlp, LayerScale, DropPath."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models import initializers
from vit_jax.models.initializers import Init

Dtype = Literal["float32", "bfloat16"]
Activation = Literal["gelu", "gelu_tanh"]


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """GELU, exact (erf, as PyTorch's default) or in its tanh approximation (arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=activation == "gelu_tanh")


class Dense(nn.Module):
    """A linear layer, [..., d] -> [..., features], computed as one product of [tokens, d].

    The parameters are those of `flax.linen.Dense`. XLA's CPU backend runs the flattened product
    faster than the batched one; on a GPU they are the same.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens d"]) -> Float[Array, "*tokens features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        flat = jnp.dot(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            flat += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return flat.reshape(*x.shape[:-1], self.features)


def layer_norm(epsilon: float, dtype: Dtype, name: str) -> nn.LayerNorm:
    """LayerNorm whose variance is computed as PyTorch does, from the centred values.

    Flax's fast variance, E[x^2] - E[x]^2, loses digits when the mean is large.
    """
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


class Mlp(nn.Module):
    """Dense, GELU, dropout, Dense, dropout (arXiv 2010.11929, section 3.1)."""

    hidden_dim: int
    dropout: float = 0.0
    activation: Activation = "gelu"
    activate_output: bool = False
    """A second activation after the second Dense, as some tutorials have it."""
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"], *, train: bool = False) -> Float[Array, "*b n d"]:
        width = x.shape[-1]
        kernel_init = initializers.dense_kernel(self.init_scheme)

        def dense(features, fan_in, name):
            # The paper's code draws the MLP's biases from N(0, 1e-6).
            bias_init = initializers.dense_bias(self.init_scheme, fan_in, stddev=1e-6)
            return Dense(
                features, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name
            )

        x = activate(dense(self.hidden_dim, width, "fc1")(x), self.activation)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = dense(width, self.hidden_dim, "fc2")(x)
        if self.activate_output:
            x = activate(x, self.activation)
        return nn.Dropout(self.dropout)(x, deterministic=not train)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (arXiv 2103.17239, equation 6)."""

    init_value: float = 1e-5
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],))
        return x * gamma.astype(self.dtype)


class DropPath(nn.Module):
    """Drop a whole residual branch per example, with probability `rate` (arXiv 1603.09382).

    The branches that stay are divided by `1 - rate`, so evaluation needs no correction.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        if not train or self.rate == 0.0:
            return x
        if self.rate >= 1.0:
            return jnp.zeros_like(x)  # dividing by 1 - rate would make the gradient NaN
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], 1, 1))
        return jnp.where(keep, x / (1 - self.rate), 0)
