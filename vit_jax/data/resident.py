"""The resident feed: all pixels in device memory; a batch is a list of indices."""

from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from vit_jax.data.order import Order, Slots
from vit_jax.data.source import ArraySource


class Batch(TypedDict):
    """What a step computes with."""

    image: Array
    """[b, h, w, c]; uint8, uint16 or float32"""
    label: Int[Array, "b"]
    index: Int[Array, "b"]
    """Of the example in its source."""
    place: Int[Array, "b"]
    """0..b-1: the example's place in the batch."""
    mask: Float[Array, "b"]
    """1, or 0 for padding and for files that hold no picture."""


class ResidentFeed:
    """Batches of a source that is on the devices whole: the host sends `Slots` only.

    Every device holds all images, or, where one is too small, its share of them; then each batch is
    collected from all devices.
    """

    crops_on_host = False

    def __init__(self, source: ArraySource, order: Order, sharding: NamedSharding):
        """`sharding` of the images: replicated, or split along their first axis."""
        self.order = order
        self.num_examples = len(source)
        self.batch_size = order.batch_size
        self.steps_per_epoch = order.steps_per_epoch
        self.bad_images = {source.name(index): reason for index, reason in source.bad.items()}
        self.sharding = sharding
        self._bad = np.array(list(source.bad), np.int32)
        shards = 1 if sharding.is_fully_replicated else sharding.mesh.size
        padding = -len(source) % shards
        images, labels = (_padded(array, padding) for array in (source.images, source.labels))
        self.resident = tuple(_placed(array, sharding) for array in (images, labels))

    def plan(self, step: int) -> Slots:
        """What the host sends for a step, counted from 0 over all epochs."""
        slots = self.order.slots(step)
        if len(self._bad):
            slots["mask"] *= ~np.isin(slots["index"], self._bad)
        return slots

    def gather(self, resident: tuple[Array, Array], plan: Mapping[str, Array]) -> Batch:
        """The batch of a plan; runs inside jit, on the devices."""
        images, labels = resident
        index = plan["index"]
        if self.sharding.is_fully_replicated:
            image, label = jnp.take(images, index, axis=0), jnp.take(labels, index, axis=0)
        else:
            image, label = (_collect(array, index, self.sharding) for array in (images, labels))
        index, place, mask = (plan[name] for name in ("index", "place", "mask"))
        return {"image": image, "label": label, "index": index, "place": place, "mask": mask}

    def close(self) -> None:
        """Nothing has to be ended."""


def _placed(array: np.ndarray, sharding: NamedSharding) -> Array:
    """An array that every process holds, each of which sends its devices what is theirs."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    array = np.asarray(array)
    return np.pad(array, [(0, rows)] + [(0, 0)] * (array.ndim - 1)) if rows else array


def _collect(array: Array, index: Int[Array, "b"], sharding: NamedSharding) -> Array:
    """Rows of an array of which each device holds a share; a device ends up with its share of rows.

    Each device looks up all rows, takes 0 for those it does not hold, and the devices add up: one
    row a device and example is sent, never the array.
    """
    axes = sharding.spec[0]

    def local(share: Any, index: Any) -> Any:
        first = jax.lax.axis_index(axes) * share.shape[0]
        inside = (index >= first) & (index < first + share.shape[0])
        rows = jnp.take(share, jnp.where(inside, index - first, 0), axis=0)
        rows = jnp.where(inside.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros_like(rows))
        return jax.lax.psum_scatter(rows, axes, scatter_dimension=0, tiled=True)

    replicated = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(
        local, mesh=sharding.mesh, in_specs=(sharding.spec, replicated), out_specs=sharding.spec
    )
    return mapped(array, index)
