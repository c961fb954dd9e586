"""The schemes of initial values: the ViT paper's code, PyTorch's defaults, mimetic attention."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Init = Literal["paper", "torch", "mimetic"]
"""mimetic: as paper, but for attention, see `mimetic_attention`."""


def dense_kernel(scheme: Init) -> nn.initializers.Initializer:
    """Kernels of attention and MLP: Glorot uniform (paper), or U(-b, b), b = 1/sqrt(fan_in)."""
    return _torch_kernel() if scheme == "torch" else nn.initializers.xavier_uniform()


def dense_bias(scheme: Init, fan_in: int, stddev: float = 0.0) -> nn.initializers.Initializer:
    """Biases: N(0, stddev) (paper; zeros by default), or PyTorch's U(-b, b), b = 1/sqrt(fan_in)."""
    return _torch_bias(fan_in) if scheme == "torch" else nn.initializers.normal(stddev)


def fused_kernel(scheme: Init, parts: int) -> nn.initializers.Initializer:
    """[d, parts * h], such as q, k and v: each part is drawn as the [d, h] matrix it stands for.

    PyTorch's bound depends on the fan-in alone, so there one draw serves all parts.
    """
    if scheme == "torch":
        return _torch_kernel()
    separate = nn.initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=0, out_axis=2, batch_axis=1
    )

    def init(key, shape, dtype=jnp.float32):
        width, fused = shape
        return separate(key, (width, parts, fused // parts), dtype).reshape(shape)

    return init


def patch_kernel(scheme: Init) -> nn.initializers.Initializer:
    """Patch projection [ph, pw, c, d]: LeCun normal (paper) or PyTorch's convolution default."""
    return _torch_kernel() if scheme == "torch" else nn.initializers.lecun_normal()


def head_kernel(scheme: Init, zeros: bool) -> nn.initializers.Initializer:
    """Classifier: zeros (paper), or else LeCun normal or PyTorch's default, by scheme."""
    if zeros:
        return nn.initializers.zeros
    return _torch_kernel() if scheme == "torch" else nn.initializers.lecun_normal()


def mimetic_attention(
    key: jax.Array, width: int, num_heads: int, head_dim: int
) -> tuple[Float[Array, "d qkv"], Float[Array, "inner d"]]:
    """Kernels of q/k/v and of the output projection whose products look as if they were trained.

    Per head, W_q W_k^T is near 0.7 (Z + I), and over all heads W_v W_proj is near 0.4 (Z - I), with
    Z of N(0, 1/d); each factor is a half of the product's singular value decomposition, cut off at
    the rank that there is. A token then attends to those that are like it. Source: mimetic
    initialization, arXiv 2305.09828, section 4.

    Returns:
      [d, 3 * inner], columns ordered [3 (q, k, v), num_heads, head_dim], and [inner, d].
    """
    inner = num_heads * head_dim
    keys = jax.random.split(key, num_heads + 1)

    def halves(key, factor, identity, rank):
        noise = jax.random.normal(key, (width, width)) / math.sqrt(width)
        u, s, vh = jnp.linalg.svd(factor * (noise + identity * jnp.eye(width)))
        rank = min(rank, width)
        root = jnp.sqrt(s[:rank])
        return u[:, :rank] * root, vh[:rank] * root[:, None]

    def widened(matrix, axis, size):
        missing = [(0, 0), (0, 0)]
        missing[axis] = (0, size - matrix.shape[axis])
        return jnp.pad(matrix, missing)

    pairs = [halves(key, 0.7, 1.0, head_dim) for key in keys[:-1]]
    query = jnp.concatenate([widened(left, 1, head_dim) for left, _ in pairs], axis=1)
    key_kernel = jnp.concatenate([widened(right.T, 1, head_dim) for _, right in pairs], axis=1)
    value, project = halves(keys[-1], 0.4, -1.0, inner)
    value, project = widened(value, 1, inner), widened(project, 0, inner)
    return jnp.concatenate([query, key_kernel, value], axis=1), project


def _torch_kernel() -> nn.initializers.Initializer:
    # Kaiming uniform with a = sqrt(5), PyTorch's default, has variance 1 / (3 * fan_in).
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _torch_bias(fan_in: int) -> nn.initializers.Initializer:
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
