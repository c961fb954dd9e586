"""Position-embedding tables."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def sincos2d(
    rows: int, columns: int, width: int, temperature: float = 10_000.0
) -> Float[Array, "n d"]:
    """Fixed sine and cosine positions of a grid, row by row: [rows * columns, width].

    A quarter of the channels each: sin x, cos x, sin y, cos y, at width / 4 frequencies from 1 down
    to 1 / temperature (MoCo v3, arXiv 2104.02057; in the form of arXiv 2205.01580).

    Raises:
      ValueError: the width is not a multiple of 4, or is 4 (one frequency spans no range).
    """
    if width % 4 or width < 8:
        raise ValueError(
            f"width={width} with positions='sincos2d': use a multiple of 4, at least 8"
        )
    frequencies = temperature ** -(jnp.arange(width // 4) / (width // 4 - 1))
    y, x = jnp.mgrid[:rows, :columns]
    y, x = (axis.reshape(-1, 1) * frequencies for axis in (y, x))
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=1)
