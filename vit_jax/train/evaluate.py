"""Exact evaluation: every image of a split counts once, padding never."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vit_jax.data.source import DataError
from vit_jax.ops.metrics import Counts, add
from vit_jax.train.setup import Job
from vit_jax.train.state import Params, TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results over a whole split."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of the images whose largest logit is the label's, 0..1."""
    top5_accuracy: float
    """Share of the images whose label is among the five largest logits, 0..1."""
    calibration_error: float
    """Expected calibration error, 0..1, over 15 bins of equal width (arXiv 1706.04599): by how much
    the probability of a prediction is off the share of such predictions that are right."""
    examples: int
    confusion: np.ndarray
    """int [classes, classes]: images by label (row) and prediction (column)."""

    def in_words(self) -> str:
        """The numbers in a line; of five classes or fewer, without the top five."""
        top5 = f", top-5 {self.top5_accuracy:.2%}" if len(self.confusion) > 5 else ""
        return (
            f"accuracy {self.accuracy:.2%}{top5}, loss {self.loss:.4f}, calibration error "
            f"{self.calibration_error:.4f}, {self.examples:,} images"
        )

    @property
    def per_class_accuracy(self) -> tuple[float | None, ...]:
        """Share of each class's images that are predicted right; None for a class without any."""
        right, images = np.diag(self.confusion).tolist(), self.confusion.sum(axis=1).tolist()
        return tuple(r / n if n else None for r, n in zip(right, images, strict=True))

    @property
    def only_prediction(self) -> int | None:
        """The class that every image was given, where there is only one such."""
        predicted = np.flatnonzero(self.confusion.sum(axis=0))
        return int(predicted[0]) if len(predicted) == 1 and len(self.confusion) > 1 else None


def evaluate(
    step: Callable[[Any, Any, Any], Counts],
    params: Mapping[str, Any],
    feed: Any,
    stops: Callable[[], bool] = lambda: False,
) -> dict[str, Evaluation]:
    """Evaluate several sets of weights, by name, in one pass over an epoch of the feed.

    Args:
      step: (one set of weights, feed.resident, plan) -> the counts of the batch.
      feed: has `steps_per_epoch`, `resident` and `plan(number)`, as `data.resident.ResidentFeed`.
      stops: asked before each batch; once it says so, nothing more is computed.

    Returns:
      the results by name; empty where `stops` ended it.
    """
    plus = jax.jit(add)
    totals: dict[str, Counts] = {}
    for number in range(feed.steps_per_epoch):
        if stops():
            return {}
        plan = feed.plan(number)
        # The sums stay on the device. Waiting for those up to the batch before, once this one is on
        # its way, keeps the device busy and the batches that wait for it from becoming many.
        before = jax.tree.leaves(totals)
        for name, weights in params.items():
            counts = step(weights, feed.resident, plan)
            totals[name] = plus(totals[name], counts) if number else counts
        jax.block_until_ready(before)
    return {name: _result(total) for name, total in jax.device_get(totals).items()}


def evaluate_state(
    job: Job, state: TrainState, feed: Any, stops: Callable[[], bool]
) -> dict[str, Evaluation]:
    """Results of the trained weights, under "", and of their moving average, under "_ema"."""
    weights = {"": state.params} if state.ema is None else {"": state.params, "_ema": state.ema}
    return evaluate(job.eval_step, weights, feed, stops)


def evaluate_test(
    job: Job, state: TrainState, feed: Any, stops: Callable[[], bool]
) -> dict[str, Evaluation]:
    """The same, and under the name of the test-time augmentation what it makes of them."""
    results = evaluate_state(job, state, feed, stops)
    if results and job.config.test_time != "none":
        weights = {f"_{job.config.test_time}": usable_weights(state)}
        views = evaluate(job.test_time_step, weights, feed, stops)
        return results | views if views else {}
    return results


def usable_weights(state: TrainState) -> Params:
    """The moving average of the weights where there is one, else the weights."""
    return state.params if state.ema is None else state.ema


def _result(total: Counts) -> Evaluation:
    examples = int(total.confusion.sum())
    if not examples:
        raise DataError("no image of the split could be read: nothing can be said about the model")
    # A float sum comes as a pair: what its rounding lost is added in float64.
    loss, confidence = (
        pair.astype(np.float64).sum(axis=0) for pair in (total.loss, total.bin_confidence)
    )
    return Evaluation(
        loss=float(loss) / examples,
        accuracy=int(np.trace(total.confusion)) / examples,
        top5_accuracy=int(total.top5) / examples,
        calibration_error=float(abs(total.bin_correct - confidence).sum()) / examples,
        examples=examples,
        confusion=total.confusion,
    )
