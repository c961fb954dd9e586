"""Positions of patches: tables to add to tokens, and rotations of queries and keys."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sincos2d(
    rows: int,
    columns: int,
    width: int,
    temperature: float = 10_000.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Float[Array, "n d"]:
    """Fixed sine and cosine positions of a grid, row by row: [rows * columns, width].

    A quarter of the channels each: sin x, cos x, sin y, cos y, at width / 4 frequencies from 1 down
    to 1 / temperature (MoCo v3, arXiv 2104.02057; in the form of arXiv 2205.01580).

    Args:
      scale: height and width of a patch in the unit that positions count, see `places`.

    Raises:
      ValueError: the width is not a multiple of 4, or is 4 (one frequency spans no range).
    """
    if width % 4 or width < 8:
        raise ValueError(
            f"width={width} with positions='sincos2d': use a multiple of 4, at least 8"
        )
    frequencies = temperature ** -(jnp.arange(width // 4) / (width // 4 - 1))
    y, x = (axis * frequencies for axis in places(rows, columns, scale))
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=1)


def places(
    rows: int, columns: int, scale: tuple[float, float]
) -> tuple[Float[np.ndarray, "n 1"], Float[np.ndarray, "n 1"]]:
    """Row and column of the centre of each patch, counted in patches that are 1 / scale as large.

    So a place in the image has the same position in grids of several patch sizes. With scale 1 they
    are whole numbers from 0.
    """
    y, x = (
        (np.arange(number) + 0.5) * unit - 0.5
        for number, unit in zip((rows, columns), scale, strict=True)
    )
    y, x = np.meshgrid(y, x, indexing="ij")
    return y.reshape(-1, 1), x.reshape(-1, 1)


def rotary2d(
    rows: int,
    columns: int,
    head_dim: int,
    prefix: int = 0,
    temperature: float = 100.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Float[np.ndarray, "n half"]:
    """Angles of rotary positions on a grid, row by row: [prefix + rows * columns, head_dim / 2].

    The first half of the angles is x, the second y, times head_dim / 4 frequencies from 1 down
    towards 1 / temperature: axial RoPE of arXiv 2403.13298, section 3.2. The `prefix` tokens before
    the patches have no position and are not rotated.

    Args:
      scale: height and width of a patch in the unit that positions count, see `places`.

    Raises:
      ValueError: head_dim is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"head_dim={head_dim} with rope=True: use a multiple of 4, half for x and half for y"
        )
    frequencies = temperature ** -(np.arange(head_dim // 4) / (head_dim // 4))
    y, x = (axis * frequencies for axis in places(rows, columns, scale))
    angles = np.concatenate([x, y], axis=1).astype(np.float32)
    return np.pad(angles, ((prefix, 0), (0, 0)))


def rotate(
    x: Float[Array, "b n k h"], angles: Float[np.ndarray | Array, "n half"]
) -> Float[Array, "b n k h"]:
    """Turn each pair of channels (i, i + h/2) by its token's angle (RoPE, arXiv 2104.09864).

    Products of rotated queries and keys depend on the tokens' distance alone.
    """
    cosine, sine = (f(angles)[:, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)
