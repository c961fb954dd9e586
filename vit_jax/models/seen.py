"""What a model computes on its way, attention weights included."""

from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vit_jax.models.vit import ViT
from vit_jax.ops.attention_maps import Query, patch_map, query_weights, rollout


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
    """Weights of the tokens in the pool with `pool="map"` or "seq" (k = 1); else None."""


def usual_query(model: ViT) -> Query:
    """Whose attention is looked at: the class token's where it is pooled, else all patches'."""
    return "class" if model.pool == "cls" else "mean"


def patch_maps(
    model: ViT, seen: Seen, grid: tuple[int, int], query: Query | None = None
) -> tuple[Float[Array, "l b k r s"], Float[Array, "b r s"]]:
    """A query's attention to every patch: of each layer and head, and rolled out through all.

    Args:
      grid: r rows and s columns of patches.
      query: None: see `usual_query`, but with `pool="map"` or "seq" the rollout is that of the
        pool, which looks at the last layer's tokens.

    Raises:
      ValueError: the model has no such query.
    """
    wanted, through = query or usual_query(model), rollout(seen.attention)
    maps = query_weights(seen.attention, wanted, grid)
    if query is None and seen.pool is not None:
        row = jnp.einsum("bkn,bnm->bm", seen.pool, through) / seen.pool.shape[1]
    else:
        row = query_weights(through, wanted, grid)
    return jnp.asarray(patch_map(maps, grid)), jnp.asarray(patch_map(row, grid))


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
    name = {"map": "map_pool", "seq": "seq_pool"}.get(model.pool)
    pool = None if name is None else seen[name]["attention"][0][:, :, 0]
    return Seen(out["tokens"], out["pooled"], out.get("logits"), jnp.stack(blocks), pool)
