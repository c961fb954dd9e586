"""Attention as XLA's CPU backend computes it fastest, and cuDNN's where a GPU has it.

Axes: g examples times heads, q queries, n keys, h channels of a head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FUSED_FROM = 196
"""Tokens. Below, what cuDNN saves in memory traffic is small (jax issue 24934)."""


def attend(
    query: Float[Array, "b q k h"],
    key: Float[Array, "b n k h"],
    value: Float[Array, "b n k h"],
    scale: float,
    kept: Float[Array, "b k q n"] | None = None,
) -> Float[Array, "b q k h"]:
    """softmax(query key^T * scale) value per head, the softmax in float32.

    Examples and heads are moved to the front and made one axis: both products are then matrices one
    after another in memory. The weights are kept for the backward pass, their logits are not.

    Args:
      kept: factors on the weights: 0 where dropout drops one, 1 / (1 - rate) elsewhere.
    """
    batch, queries, heads, _ = query.shape

    def by_head(x):
        return x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], x.shape[3])

    if kept is not None:
        kept = kept.reshape(batch * heads, *kept.shape[2:])
    out = _attend(by_head(query), by_head(key), by_head(value), kept, scale)
    return out.reshape(batch, heads, queries, -1).swapaxes(1, 2)


def _weights(query, key, scale):
    logits = jnp.einsum("gqh,gnh->gqn", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * scale, axis=-1)


def _factored(weights, kept):
    return weights if kept is None else weights * kept


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _attend(query, key, value, kept, scale):
    weights = _factored(_weights(query, key, scale), kept).astype(value.dtype)
    return jnp.einsum("gqn,gnh->gqh", weights, value)


@_attend.defjvp
def _attend_jvp(scale, primals, tangents):
    """The derivative written so that its transpose sums over channels where softmax's own would sum
    over keys: sum_n w dw = sum_h out dout (arXiv 2205.14135, appendix B.2); in float32 only."""
    query, key, value, kept = primals
    dquery, dkey, dvalue, _ = tangents
    weights = _weights(query, key, scale)
    factored = _factored(weights, kept)
    used = factored.astype(value.dtype)
    out = jnp.einsum("gqn,gnh->gqh", used, value)
    dlogits = jnp.einsum("gqh,gnh->gqn", dquery, key, preferred_element_type=jnp.float32)
    dlogits += jnp.einsum("gqh,gnh->gqn", query, dkey, preferred_element_type=jnp.float32)
    dlogits *= scale
    mean = (weights * dlogits).sum(axis=-1, keepdims=True)
    if value.dtype != jnp.float32:
        # Centred before it is rounded: the difference of two large products would lose all digits.
        moved = (factored * (dlogits - mean)).astype(value.dtype)
        dout = jnp.einsum("gqn,gnh->gqh", moved, value)
        return out, dout + jnp.einsum("gqn,gnh->gqh", used, dvalue)
    dout = jnp.einsum("gqn,gnh->gqh", factored * dlogits, value) - mean * out
    return out, dout + jnp.einsum("gqn,gnh->gqh", used, dvalue)


def cudnn_takes(query: Any) -> bool:
    """Whether cuDNN's attention is there for queries [b, n, k, h], and likely to be faster.

    It asks for 16-bit numbers and heads of up to 128 channels, a multiple of 8. Whatever else jax
    checks for it, when a function is traced, counts as a no.
    """
    _, tokens, _, head_dim = query.shape
    static = all(isinstance(axis, int) for axis in query.shape)
    if not static or query.dtype not in (jnp.bfloat16, jnp.float16) or tokens < FUSED_FROM:
        return False
    if head_dim % 8 or head_dim > 128 or jax.default_backend() != "gpu":
        return False
    shape = jax.ShapeDtypeStruct(query.shape, query.dtype)
    try:
        jax.eval_shape(functools.partial(cudnn, scale=1.0), shape, shape, shape)
    except Exception:  # jax raises RuntimeError, ValueError, NotImplementedError: all say no
        return False
    return True


def cudnn(query, key, value, scale):
    """[b n k h] three times -> [b n k h], by cuDNN."""
    return jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
