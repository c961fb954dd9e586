"""What a model costs before it runs: parameters and floating-point operations."""

import math

import jax
import jax.numpy as jnp

from vit_jax.models.attention import width_per_head
from vit_jax.models.patches import grid_size, pair, patches_kept
from vit_jax.models.vit import ViT


def abstract_params(model: ViT, image_size: int | tuple[int, int], channels: int = 3) -> dict:
    """The parameter tree as shapes and dtypes; allocates nothing."""
    images = jax.ShapeDtypeStruct((1, *pair(image_size), channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def parameter_count(model: ViT, image_size: int | tuple[int, int] = 224, channels: int = 3) -> int:
    """Number of parameters at an image size in pixels (learned positions depend on it).

    >>> from vit_jax import vit
    >>> parameter_count(vit("B/16"))
    86567656
    """
    leaves = jax.tree.leaves(abstract_params(model, image_size, channels))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def forward_flops(
    model: ViT, image_size: int | tuple[int, int] = 224, channels: int = 3, *, train: bool = False
) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two.

    Matrix products only: patch embedding, q/k/v, attention, projection, MLP, pooling and head.
    A training step costs about three times as much; with `train` without the patches that
    `patch_dropout` leaves out.
    """
    rows, columns = grid_size(image_size, model.patch_size)
    patches, width = rows * columns, model.width
    kept = patches_kept(patches, model.patch_dropout) if train else patches
    tokens = kept + model.num_prefix_tokens
    ph, pw = pair(model.patch_size)
    inner = model.num_heads * width_per_head(width, model.num_heads, model.head_dim)
    mlp = 2 * width * (4 * width if model.mlp_dim is None else model.mlp_dim)

    if model.shifted_patches:
        channels *= 5
    multiply_adds = patches * ph * pw * channels * width
    multiply_adds += model.depth * tokens * (4 * width * inner + 2 * tokens * inner + mlp)
    if model.pool == "map":
        multiply_adds += tokens * 2 * width * (width + 1) + 2 * width * width + mlp
    if model.pool == "seq":
        multiply_adds += 2 * tokens * width
    outputs = tokens if model.pool == "none" else 1
    features = width
    if model.representation is not None:
        multiply_adds += outputs * width * model.representation
        features = model.representation
    multiply_adds += outputs * features * (model.num_classes or 0)
    return 2 * multiply_adds
