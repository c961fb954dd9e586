"""What a model computes on its way, attention weights included."""

from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vit_jax.models.vit import ViT


class Seen(NamedTuple):
    """Axes: l layers, b batch, k heads, n tokens, d width."""

    tokens: Float[Array, "b n d"]
    """The encoder's output."""
    pooled: Float[Array, "b ..."]
    """[b, d], or [b, n, d] with `pool="none"`."""
    logits: Float[Array, "b ..."] | None
    """[b, num_classes]; None without a head."""
    attention: Float[Array, "l b k n n"]
    """Weights of every block and head, query (row) to key (column), in float32."""
    pool: Float[Array, "b k n"] | None
    """Weights of the learned query over the tokens with `pool="map"`; else None."""


def look_inside(model: ViT, variables: Any, images: Num[Array | np.ndarray, "b h w c"]) -> Seen:
    """Apply a model without dropout and keep what can be looked at; may run inside jit.

    Args:
      variables: {"params": …} as `model.init` or `load_pretrained` gives them.
      images: normalised, as the model takes them.
    """
    # Flax types `apply` for all its uses.
    out, seen = cast(Any, model.apply)(
        variables, images, method="features", mutable="intermediates"
    )
    seen = seen["intermediates"]
    blocks = [seen["encoder"][f"block_{i}"]["attn"]["attention"][0] for i in range(model.depth)]
    pool = seen["map_pool"]["attention"][0][:, :, 0] if model.pool == "map" else None
    return Seen(out["tokens"], out["pooled"], out.get("logits"), jnp.stack(blocks), pool)
