"""The two schemes of initial values: the ViT paper's code and PyTorch's defaults."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

Init = Literal["paper", "torch"]


def dense_kernel(scheme: Init) -> nn.initializers.Initializer:
    """Kernels of attention and MLP: Glorot uniform (paper), or U(-b, b), b = 1/sqrt(fan_in)."""
    return nn.initializers.xavier_uniform() if scheme == "paper" else _torch_kernel()


def dense_bias(scheme: Init, fan_in: int, stddev: float = 0.0) -> nn.initializers.Initializer:
    """Biases: N(0, stddev) (paper; zeros by default), or PyTorch's U(-b, b), b = 1/sqrt(fan_in)."""
    return nn.initializers.normal(stddev) if scheme == "paper" else _torch_bias(fan_in)


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
    return nn.initializers.lecun_normal() if scheme == "paper" else _torch_kernel()


def head_kernel(scheme: Init, zeros: bool) -> nn.initializers.Initializer:
    """Classifier: zeros (paper), or else LeCun normal or PyTorch's default, by scheme."""
    if zeros:
        return nn.initializers.zeros
    return nn.initializers.lecun_normal() if scheme == "paper" else _torch_kernel()


def _torch_kernel() -> nn.initializers.Initializer:
    # Kaiming uniform with a = sqrt(5), PyTorch's default, has variance 1 / (3 * fan_in).
    return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _torch_bias(fan_in: int) -> nn.initializers.Initializer:
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
