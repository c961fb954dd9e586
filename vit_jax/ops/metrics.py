"""Metrics as sums over examples, exact when the last batch is padded: padding has mask 0."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.ops.losses import cross_entropy

BINS = 15
"""Bins of equal width over the confidences 0..1, as in arXiv 1706.04599."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """Sums over examples; add two with `add`, or over devices with psum.

    A float sum is a pair: the sum, and what rounding has lost of it, so that the sum of both is
    accurate over any number of batches. Whole numbers are exact up to 2^31 examples.
    """

    # Arrays, or what jax puts in their place: shapes, shardings, tracers.
    loss: Any
    """float32 [2], sum of the cross-entropies, in nats."""
    confusion: Any
    """int32 [classes, classes], examples by label (row) and prediction (column)."""
    top5: Any
    """int32 [], examples whose label is among the five largest logits; of fewer, among all."""
    bin_examples: Any
    """int32 [bins], examples by confidence, the probability of the prediction."""
    bin_correct: Any
    """int32 [bins], those of them whose prediction is the label."""
    bin_confidence: Any
    """float32 [2, bins], sum of their confidences."""


def count(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], mask: Float[Array, "b"]
) -> Counts:
    """The sums of one batch; examples with mask 0 count nowhere.

    Of equal logits the first is the larger, so equal logits for all classes are no success. A row
    with a NaN is no success among five, but may be a prediction; its loss and confidence tell.
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[1]
    real = mask > 0
    predictions = logits.argmax(axis=1)
    confusion = jnp.zeros((classes, classes), jnp.int32)
    confusion = confusion.at[labels, predictions].add(real.astype(jnp.int32))
    confidence = jax.nn.softmax(logits).max(axis=1)
    in_bin = _bin(confidence)[:, None] == jnp.arange(BINS)
    in_bin &= real[:, None]
    correct = in_bin & (predictions == labels)[:, None]
    return Counts(
        loss=_pair(jnp.where(real, cross_entropy(logits, labels), 0).sum()),
        confusion=confusion,
        top5=(real & among_largest(logits, labels, 5)).sum(dtype=jnp.int32),
        bin_examples=in_bin.sum(axis=0, dtype=jnp.int32),
        bin_correct=correct.sum(axis=0, dtype=jnp.int32),
        # Sums of masked numbers, not a scatter: atomic additions would have no fixed order.
        bin_confidence=_pair(jnp.where(in_bin, confidence[:, None], 0).sum(axis=0)),
    )


def add(a: Counts, b: Counts) -> Counts:
    """The counts of both."""
    return jax.tree.map(
        lambda x, y: _add_pairs(x, y) if jnp.issubdtype(x.dtype, jnp.floating) else x + y, a, b
    )


def among_largest(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], number: int
) -> Bool[Array, "b"]:
    """Whether fewer than `number` logits stand before the label's; without sorting them.

    Before it stands what is larger, or as large and of a lower class, as `argmax` has it, and what
    is NaN. A label whose own logit is NaN stands behind all.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    lower = jnp.arange(logits.shape[1]) < labels[:, None]
    # Negated, since every comparison with a NaN is false.
    before = jnp.where(lower, ~(logits < own), ~(logits <= own))
    return before.sum(axis=1) < min(number, logits.shape[1])


def _bin(confidence: Float[Array, "b"]) -> Int[Array, "b"]:
    """The bin, (lower, upper], of each confidence."""
    # The edges as float32 has them: 5 equal logits have a confidence of exactly 3/15.
    edges = np.arange(1, BINS, dtype=np.float32) / BINS
    return (confidence[:, None] > edges).sum(axis=1)


def _pair(total: Float[Array, "..."]) -> Float[Array, "2 ..."]:
    return jnp.stack([total, jnp.zeros_like(total)])


def _add_pairs(a: Float[Array, "2 ..."], b: Float[Array, "2 ..."]) -> Float[Array, "2 ..."]:
    """Add sums, and to what was lost what this addition rounds off (Knuth's two-sum)."""
    total = a[0] + b[0]
    of_b = total - a[0]
    lost = (a[0] - (total - of_b)) + (b[0] - of_b)
    return jnp.stack([total, a[1] + b[1] + lost])
