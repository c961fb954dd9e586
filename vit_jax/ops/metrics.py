"""Metrics as sums over examples, exact when the last batch is padded: padding has mask 0."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.ops.losses import cross_entropy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """Sums over examples; add two with `jax.tree.map(jnp.add, a, b)`, or over devices with psum."""

    # Arrays, or what jax puts in their place: shapes, shardings, tracers.
    loss: Any
    """float32 [], sum of the cross-entropies, in nats."""
    confusion: Any
    """int32 [classes, classes], examples by label (row) and prediction (column)."""


def count(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], mask: Float[Array, "b"]
) -> Counts:
    """The sums of one batch; examples with mask 0 count nowhere."""
    classes = logits.shape[1]
    predictions = logits.argmax(axis=1)
    confusion = jnp.zeros((classes, classes), jnp.int32)
    confusion = confusion.at[labels, predictions].add(mask.astype(jnp.int32))
    return Counts(loss=(cross_entropy(logits, labels) * mask).sum(), confusion=confusion)
