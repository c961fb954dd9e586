"""Losses per example, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], label_smoothing: float = 0.0
) -> Float[Array, "b"]:
    """-sum(target * log softmax(logits)) per example, in nats.

    The target is `1 - label_smoothing` on the label plus `label_smoothing / classes` on every class
    (arXiv 1512.00567, section 7), as in PyTorch's CrossEntropyLoss.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    on_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    on_all = log_probabilities.mean(axis=1)
    return -(1 - label_smoothing) * on_label - label_smoothing * on_all
