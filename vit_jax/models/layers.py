"""The small parts of a block: Dense on flattened tokens, norms, Mlp, LayerScale, DropPath."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vit_jax.models import initializers
from vit_jax.models.initializers import Init

Dtype = Literal["float32", "bfloat16"]
Activation = Literal["gelu", "gelu_tanh"]
Norm = Literal["layer", "rms"]


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """GELU, exact (erf, as PyTorch's default) or in its tanh approximation (arXiv 1606.08415)."""
    if activation == "gelu" and x.dtype == jnp.float32:
        return _exact_gelu(x)
    return jax.nn.gelu(x, approximate=activation == "gelu_tanh")


@jax.custom_jvp
def _exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x), by PyTorch's formula: jax.nn.gelu takes erfc, which costs a CPU more."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


@_exact_gelu.defjvp
def _exact_gelu_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    # Without the barrier XLA computes erf again wherever the result is needed.
    share = jax.lax.optimization_barrier(0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))
    slope = share + x * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * share, tangent * slope


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


class LayerNorm(nn.Module):
    """LayerNorm over the last axis. The variance is that of the centred values, as in PyTorch.

    The fast variance E[x^2] - E[x]^2 loses digits when the mean is large. Parameters and numbers
    are those of `flax.linen.LayerNorm(use_fast_variance=False)`; statistics are float32.
    """

    epsilon: float = 1e-6
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return _normalise(x.astype(jnp.float32), scale, bias, self.epsilon).astype(self.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) times a learned factor per channel (arXiv 1910.07467).

    A LayerNorm without centring and without bias; statistics are float32.
    """

    epsilon: float = 1e-6
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        return (x * inverse * scale).astype(self.dtype)


def make_norm(kind: Norm, epsilon: float, dtype: Dtype, name: str) -> nn.Module:
    """`LayerNorm` or `RMSNorm`, under a name."""
    return {"layer": LayerNorm, "rms": RMSNorm}[kind](epsilon, dtype, name=name)


def _statistics(x, epsilon):
    """The normalised x, and 1 / standard deviation."""
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalise(x, scale, bias, epsilon):
    return _statistics(x, epsilon)[0] * scale + bias


@_normalise.defjvp
def _normalise_jvp(epsilon, primals, tangents):
    """The derivative in the form whose transpose takes two means over a row, instead of four."""
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    normal, inverse = _statistics(x, epsilon)
    along = (normal * dx).mean(axis=-1, keepdims=True)
    moved = inverse * (dx - dx.mean(axis=-1, keepdims=True) - normal * along)
    return normal * scale + bias, moved * scale + normal * dscale + dbias


class Dropout(nn.Module):
    """Set each number to 0 with probability `rate`, and divide the others by 1 - rate.

    The mask takes 8 random bits a number where the rate is a multiple of 1/256, else 16, so that
    rates hold to 1e-5. Flax's own takes 32, and on a CPU the bits are what dropout costs.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool = False) -> Float[Array, "*shape"]:
        if not train or self.rate == 0.0:
            return x
        if self.rate >= 1.0:
            return jnp.zeros_like(x)
        keep, share = _keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x / share, 0)


def keep_factors(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """What dropout multiplies by: 0 with probability `rate`, elsewhere what keeps the mean."""
    if rate >= 1.0:
        return jnp.zeros(shape)
    keep, share = _keep_mask(key, rate, shape)
    return keep / share


def _keep_mask(
    key: jax.Array, rate: float, shape: tuple[int, ...]
) -> tuple[Bool[Array, "..."], float]:
    """True with a probability that is 1 - rate but for rounding, and that probability."""
    dtype = jnp.uint8 if (rate * 256).is_integer() else jnp.uint16
    bits = jnp.iinfo(dtype).bits
    parts = 32 // bits
    *rest, last = shape
    words = jax.random.bits(key, (*rest, -(-last // parts)), jnp.uint32)
    # Without the barrier each part of a word would be a reason to compute the word again.
    words = jax.lax.optimization_barrier(words)
    numbers = jax.lax.bitcast_convert_type(words, dtype).reshape(*rest, -1)[..., :last]
    dropped = min(round(rate * 2**bits), 2**bits - 1)
    return numbers >= dropped, 1 - dropped / 2**bits


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
        x = Dropout(self.dropout)(x, train=train)
        x = dense(width, self.hidden_dim, "fc2")(x)
        if self.activate_output:
            x = activate(x, self.activation)
        return Dropout(self.dropout)(x, train=train)


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

    The branches that stay are divided by `1 - rate`, so evaluation needs no correction. The rate
    may be an array, traced where one program runs for several layers; then it always draws.
    """

    rate: float | Float[Array, ""] = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n d"]:
        known = not isinstance(self.rate, jax.Array)
        if not train or (known and self.rate == 0.0):
            return x
        if known and self.rate >= 1.0:
            return jnp.zeros_like(x)  # dividing by 1 - rate would make the gradient NaN
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], 1, 1))
        share = 1 - self.rate
        if not known:
            # Of x's type, which an array would widen; and, as above, no division by 0.
            share = jnp.where(self.rate < 1, share, 1).astype(x.dtype)
        return jnp.where(keep, x / share, 0)
