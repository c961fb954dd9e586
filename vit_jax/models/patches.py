"""From pixels to tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Num, Shaped

from vit_jax.models import initializers
from vit_jax.models.initializers import Init
from vit_jax.models.layers import Dtype, Norm, make_norm
from vit_jax.ops.resample import patch_kernel_matrix


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

    `shifted` gives each patch its surroundings too: the image, and four copies of it that are moved
    by half a patch along the diagonals, stand one behind the other as 5 c channels, and a norm acts
    on each patch before it is projected. This is shifted patch tokenization (SPT, arXiv
    2112.13492): a token then sees four times the area, as a convolution's would.

    Raises:
      ValueError: the patches do not divide the image, or its channels are not the kernel's.
    """

    width: int
    patch_size: int | tuple[int, int] = 16
    method: Literal["conv", "matmul"] = "conv"
    kernel_size: int | tuple[int, int] | None = None
    """The patch size that the kernel is stored for; it is resized to `patch_size` whenever it is
    used, by pseudo-inverse (FlexiViT, arXiv 2212.08013, section 3.4). None: `patch_size`."""
    shifted: bool = False
    norm: Norm = "layer"
    """What norm `shifted` brings."""
    norm_eps: float = 1e-6
    init_scheme: Init = "paper"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b n d"]:
        batch, height, width, channels = images.shape
        rows, columns = grid_size((height, width), self.patch_size)
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[2] // (5 if self.shifted else 1)
            if channels != expected:
                raise ValueError(
                    f"channels={channels} in the images of shape {images.shape}, but the patch "
                    f"embedding was initialised for {expected}: images are [b, h, w, {expected}]"
                )
        if self.shifted:
            images = shifted_copies(jnp.asarray(images), pair(self.patch_size))
        kernel, bias = self._weights(images.shape[3])
        images, kernel, bias = (jnp.asarray(x, self.dtype) for x in (images, kernel, bias))

        if self.method == "conv" and not self.shifted:
            tokens = jax.lax.conv_general_dilated(
                images,
                kernel,
                pair(self.patch_size),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        else:
            patches = cut_patches(images, self.patch_size).reshape(batch * rows * columns, -1)
            if self.shifted:
                patches = make_norm(self.norm, self.norm_eps, self.dtype, "norm")(patches)
            tokens = jnp.dot(patches, kernel.reshape(-1, self.width))
        return tokens.reshape(batch, rows * columns, self.width) + bias

    def _weights(
        self, channels: int
    ) -> tuple[Float[Array | np.ndarray, "ph pw c d"], Float[Array | np.ndarray, "d"]]:
        """The kernel, as `patch_size` needs it, and the bias."""
        patch, stored = pair(self.patch_size), pair(self.kernel_size or self.patch_size)
        shape = (*stored, channels, self.width)
        kernel = self.param("kernel", initializers.patch_kernel(self.init_scheme), shape)
        if stored != patch:
            down, across = (
                patch_kernel_matrix(old, new, "linear").astype(np.float32)
                for old, new in zip(stored, patch, strict=True)
            )
            kernel = jnp.einsum("Hh,Ww,hwcd->HWcd", down, across, kernel)
        bias_init = initializers.dense_bias(self.init_scheme, stored[0] * stored[1] * channels)
        return kernel, self.param("bias", bias_init, (self.width,))


class PatchDropout(nn.Module):
    """Keep a random part of the patches of each image: [b, n, d] -> [b, kept, d] in training.

    Which, is drawn per example; the `first` tokens always stay. Tokens need their positions before.
    Training on a part of the tokens costs that part (PatchDropout, arXiv 2208.07220).
    """

    rate: float
    """Share of the patches that is dropped; the number that stays is rounded, and at least 1."""
    first: int = 0
    """Tokens before the patches."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b m d"]:
        if not train or self.rate == 0.0:
            return x
        batch, tokens, _ = x.shape
        patches = tokens - self.first
        kept = patches_kept(patches, self.rate)
        draws = jax.random.uniform(self.make_rng("dropout"), (batch, patches))
        chosen = jax.lax.top_k(draws, kept)[1] + self.first
        patches = jnp.take_along_axis(x, chosen[:, :, None], axis=1)
        return jnp.concatenate([x[:, : self.first], patches], axis=1)


def patches_kept(patches: int, rate: float) -> int:
    """How many of an image's patches `PatchDropout` leaves."""
    return max(1, round(patches * (1 - rate)))


def cut_patches(
    images: Shaped[Array, "b h w c"], patch_size: int | tuple[int, int]
) -> Shaped[Array, "b n p"]:
    """[b, h, w, c] -> [b, n, ph * pw * c]: the numbers of each patch, patches row by row."""
    batch, height, width, channels = images.shape
    rows, columns = grid_size((height, width), patch_size)
    ph, pw = pair(patch_size)
    patches = images.reshape(batch, rows, ph, columns, pw, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def shifted_copies(
    images: Num[Array, "b h w c"], patch_size: tuple[int, int]
) -> Num[Array, "b h w s"]:
    """[b, h, w, c] -> [b, h, w, 5 c]: the images, then moved by half a patch in four directions.

    Up and left, up and right, down and left, down and right; zeros come in at the border.
    """
    _, height, width, _ = images.shape
    y, x = (side // 2 for side in patch_size)
    padded = jnp.pad(images, ((0, 0), (y, y), (x, x), (0, 0)))
    corners = [(y, x), *((top, left) for top in (2 * y, 0) for left in (2 * x, 0))]
    return jnp.concatenate(
        [padded[:, top : top + height, left : left + width] for top, left in corners], axis=3
    )


def divisors(number: int) -> list[int]:
    """All divisors, ascending: what an error message can offer."""
    return [d for d in range(1, number + 1) if number % d == 0]
