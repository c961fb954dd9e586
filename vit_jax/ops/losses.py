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
    on_label = _of_class(log_probabilities, labels)
    on_all = log_probabilities.mean(axis=1)
    return -(1 - label_smoothing) * on_label - label_smoothing * on_all


def mixed_cross_entropy(
    logits: Float[Array, "b classes"],
    labels: Int[Array, "b"],
    partner_labels: Int[Array, "b"],
    weight: Float[Array, "b"],
    label_smoothing: float = 0.0,
) -> Float[Array, "b"]:
    """Cross-entropy with two labels: `weight` of the first plus `1 - weight` of the second.

    Equal to that against the mixed target (arXiv 1710.09412, section 2); smoothed as above.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    own, partner = (_of_class(log_probabilities, label) for label in (labels, partner_labels))
    on_labels = weight * own + (1 - weight) * partner
    on_all = log_probabilities.mean(axis=1)
    return -(1 - label_smoothing) * on_labels - label_smoothing * on_all


def binary_cross_entropy(
    logits: Float[Array, "b classes"],
    labels: Int[Array, "b"],
    partner_labels: Int[Array, "b"],
    weight: Float[Array, "b"],
    label_smoothing: float = 0.0,
) -> Float[Array, "b"]:
    """Each class a yes or no of its own: the mean over the classes, in nats (arXiv 2204.07118).

    The targets are those of `mixed_cross_entropy`, 0..1 for each class, so that the loss is timm's
    BinaryCrossEntropy and PyTorch's BCEWithLogitsLoss, before their mean over the batch.
    """
    logits = logits.astype(jnp.float32)
    classes = jnp.arange(logits.shape[1])
    own, partner = (label[:, None] == classes for label in (labels, partner_labels))
    share = weight[:, None]
    target = (1 - label_smoothing) * (share * own + (1 - share) * partner)
    target += label_smoothing / logits.shape[1]
    # Two logarithms, since x - log sigmoid(x) rounds a small -log sigmoid(-x) away.
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(target * yes + (1 - target) * no).mean(axis=1)


def _of_class(values: Float[Array, "b classes"], labels: Int[Array, "b"]) -> Float[Array, "b"]:
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
