"""The resident feed: all pixels in device memory; a batch is a list of indices."""

from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vit_jax.data.source import ArraySource


class Plan(TypedDict):
    """What the host sends for one step."""

    index: np.ndarray
    """int32 [b], places in the source."""
    place: np.ndarray
    """int32 [b], 0..b-1: the example's place in the batch."""
    mask: np.ndarray
    """float32 [b]: 1, or 0 for padding."""


class Batch(TypedDict):
    """What a step computes with."""

    image: UInt8[Array, "b h w c"]
    label: Int[Array, "b"]
    place: Int[Array, "b"]
    mask: Float[Array, "b"]


class ResidentFeed:
    """Batches of a source as a function of the step number alone.

    An epoch is every image once, in an order drawn from (seed, epoch), or in the source's own order
    without a seed; its last batch is padded, with mask 0, to the size of the others.
    """

    def __init__(
        self,
        source: ArraySource,
        batch_size: int,
        sharding: jax.sharding.Sharding,
        seed: int | None = None,
    ):
        self.num_examples = len(source)
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-len(source) // batch_size)
        self.resident = jax.device_put(
            (np.asarray(source.images), np.asarray(source.labels)), sharding
        )
        self._epoch: tuple[int, np.ndarray] | None = None

    def plan(self, step: int) -> Plan:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        index = order[step_in_epoch * self.batch_size : (step_in_epoch + 1) * self.batch_size]
        padding = self.batch_size - len(index)
        return {
            "index": np.pad(index, (0, padding)).astype(np.int32),
            "place": np.arange(self.batch_size, dtype=np.int32),
            "mask": np.pad(np.ones(len(index), np.float32), (0, padding)),
        }

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.arange(self.num_examples)
            if self.seed is not None:
                order = np.random.default_rng((self.seed, epoch)).permutation(order)
            self._epoch = epoch, order
        return self._epoch[1]


def gather(
    resident: tuple[UInt8[Array, "n h w c"], Int[Array, "n"]], plan: dict[str, Array]
) -> Batch:
    """Pixels and labels of a plan; runs inside jit, on the device."""
    images, labels = resident
    return {
        "image": jnp.take(images, plan["index"], axis=0),
        "label": jnp.take(labels, plan["index"], axis=0),
        "place": plan["place"],
        "mask": plan["mask"],
    }
