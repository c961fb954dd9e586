"""Exact evaluation: every image of a split counts once, padding never."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.resident import ResidentFeed
from vit_jax.ops.metrics import Counts


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results over a whole split."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of the images whose largest logit is the label's, 0..1."""
    examples: int
    confusion: np.ndarray
    """int [classes, classes]: images by label (row) and prediction (column)."""

    @property
    def only_prediction(self) -> int | None:
        """The class that every image was given, where there is only one such."""
        predicted = np.flatnonzero(self.confusion.sum(axis=0))
        return int(predicted[0]) if len(predicted) == 1 and len(self.confusion) > 1 else None


def evaluate(
    step: Callable[[Any, Any, Any], Counts], params: Any, feed: ResidentFeed
) -> Evaluation:
    """Run `step(params, resident, plan)` over one epoch of the feed and add up."""
    total = None
    for number in range(feed.steps_per_epoch):
        counts = step(params, feed.resident, feed.plan(number))
        total = counts if total is None else jax.tree.map(jnp.add, total, counts)
    assert total is not None, "a feed has at least one step"
    confusion = np.asarray(total.confusion)
    examples = int(confusion.sum())
    return Evaluation(
        loss=float(total.loss) / examples,
        accuracy=float(np.trace(confusion)) / examples,
        examples=examples,
        confusion=confusion,
    )
