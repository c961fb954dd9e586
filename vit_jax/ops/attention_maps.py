"""What attention weights say about an image: maps over its patches, and rollout through the layers.

Axes: l layers, b batch, k heads, n tokens (class token, registers, then patches row by row), r rows
and s columns of the grid of patches.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Query = Literal["class", "mean"] | tuple[int, int]
"""Who looks: the class token, all patches on average, or the patch at (row, column)."""


def query_weights(
    weights: Float[Array | np.ndarray, "*any n n"], query: Query, grid: tuple[int, int]
) -> Float[Array | np.ndarray, "*any n"]:
    """The rows of attention weights that belong to a query; each sums to 1.

    Args:
      grid: rows and columns of patches; the tokens before those are class token and registers.

    Raises:
      ValueError: there are fewer tokens than patches, no token before them for "class", or no such
        patch.
    """
    first = _first_patch(weights.shape[-1], grid)
    if query == "mean":
        return weights[..., first:, :].mean(axis=-2)
    if query == "class":
        if not first:
            raise ValueError("query='class': all tokens are patches; use 'mean' or (row, column)")
        return weights[..., 0, :]
    row, column = query
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(
            f"query={query}: patches go from (0, 0) to ({grid[0] - 1}, {grid[1] - 1}), row and "
            "column"
        )
    return weights[..., first + row * grid[1] + column, :]


def patch_map(
    weights: Float[Array | np.ndarray, "*any n"], grid: tuple[int, int]
) -> Float[Array | np.ndarray, "*any r s"]:
    """The weights on patches as a picture of the grid; class token and registers are left out.

    What those get is missing: the map sums to 1 or less.

    Raises:
      ValueError: there are fewer tokens than patches.
    """
    first = _first_patch(weights.shape[-1], grid)
    return weights[..., first:].reshape(*weights.shape[:-1], *grid)


def rollout(weights: Float[Array | np.ndarray, "l b k n n"]) -> Float[Array, "b n n"]:
    """How much of each input token (column) reaches each output token (row) through all layers.

    The residual branch counts as attention to itself: the layers' matrices 0.5 W + 0.5 I, W being
    the mean over heads, are multiplied, the last layer's first (arXiv 2005.00928, section 3).
    Rows sum to 1.
    """
    identity = jnp.eye(weights.shape[-1])
    total = jnp.broadcast_to(identity, (weights.shape[1], *identity.shape))
    for layer in jnp.asarray(weights, jnp.float32).mean(axis=2):
        total = (0.5 * layer + 0.5 * identity) @ total
    return total


def _first_patch(tokens: int, grid: tuple[int, int]) -> int:
    """The number of tokens before the patches."""
    first = tokens - grid[0] * grid[1]
    if first < 0:
        raise ValueError(
            f"grid={grid} has {grid[0] * grid[1]} patches, but there are {tokens} tokens"
        )
    return first
