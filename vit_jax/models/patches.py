"""From pixels to tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.models import initializers
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Dtype


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """One number for a square, or (height, width)."""
    return (size, size) if isinstance(size, int) else size


def grid_size(
    image_size: int | tuple[int, int], patch_size: int | tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of patches; a ValueError where the patches do not fill the image."""
    (height, width), (ph, pw) = pair(image_size), pair(patch_size)
    if min(height, width, ph, pw) < 1:
        raise ValueError(
            f"patch_size={(ph, pw)} in an image of {height}x{width} pixels: both are at least 1"
        )
    if height % ph or width % pw:
        raise ValueError(
            f"patch_size={(ph, pw)} does not divide the image of {height}x{width} pixels: "
            f"use a patch height out of {divisors(height)} and a patch width out of "
            f"{divisors(width)}, or resize the image"
        )
    return height // ph, width // pw


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to `width` (arXiv 2010.11929, equation 1).

    float [b, h, w, c] -> [b, n, d], n = (h / patch height) * (w / patch width), row by row.

    `method="conv"` is a convolution whose stride is the patch; `method="matmul"` cuts the patches
    out and multiplies. Both read the same kernel [ph, pw, c, d] and give the same numbers.

    Raises:
      ValueError: the patches do not divide the image, or its channels are not the kernel's.
    """

    width: int
    patch_size: int | tuple[int, int] = 16
    method: Literal["conv", "matmul"] = "conv"
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b n d"]:
        batch, height, width, channels = images.shape
        rows, columns = grid_size((height, width), self.patch_size)
        ph, pw = pair(self.patch_size)
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[2]
            if channels != expected:
                raise ValueError(
                    f"channels={channels} in the images of shape {images.shape}, but the patch "
                    f"embedding was initialised for {expected}: images are [b, h, w, {expected}]"
                )
        shape = (ph, pw, channels, self.width)
        kernel = self.param("kernel", initializers.patch_kernel(self.init_scheme), shape)
        bias_init = initializers.dense_bias(self.init_scheme, ph * pw * channels)
        bias = self.param("bias", bias_init, (self.width,))
        images, kernel, bias = (jnp.asarray(x, self.dtype) for x in (images, kernel, bias))

        if self.method == "conv":
            tokens = jax.lax.conv_general_dilated(
                images, kernel, (ph, pw), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        else:
            patches = images.reshape(batch, rows, ph, columns, pw, channels)
            patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, -1)
            tokens = jnp.dot(patches, kernel.reshape(-1, self.width))
        return tokens.reshape(batch, rows * columns, self.width) + bias


def divisors(number: int) -> list[int]:
    """All divisors, ascending: what an error message can offer."""
    return [d for d in range(1, number + 1) if number % d == 0]
