"""Which examples make up the batch of a step: a function of (seed, step) alone."""

import dataclasses
import functools

import numpy as np

Slots = dict[str, np.ndarray]
"""A batch as the examples in its places: "index", int32 [b], of the example in its source; "place",
int32 [b], 0..b-1; "mask", float32 [b]: 1, or 0 for padding."""


@dataclasses.dataclass(frozen=True)
class Order:
    """An epoch is every example once, in an order drawn from (seed, epoch).

    Without a seed it is the source's own order. The last batch is padded, with mask 0, to the size
    of the others. With `repeats` every batch holds batch_size / repeats examples, each as often
    (repeated augmentation, arXiv 1901.09335): as many steps an epoch, which then draws that
    fraction of the examples.

    Of several processes each brings its share of every batch: `share` is (which, of how many), and
    divides the batch.
    """

    num_examples: int
    batch_size: int
    seed: int | None = None
    repeats: int = 1
    share: tuple[int, int] = (0, 1)

    @property
    def rows(self) -> int:
        """Of the share of a batch."""
        return self.batch_size // self.share[1]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def slots(self, step: int) -> Slots:
        """The share of the batch of a step, counted from 0 over all epochs."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = _permutation(self.num_examples, self.seed, epoch)
        distinct = self.batch_size // self.repeats
        index = order[step_in_epoch * distinct : (step_in_epoch + 1) * distinct]
        # Copies lie far apart, so that neighbours, which are mixed with each other, differ.
        index = np.tile(index, self.repeats)
        padding = self.batch_size - len(index)
        whole = {
            "index": np.pad(index, (0, padding)).astype(np.int32),
            "place": np.arange(self.batch_size, dtype=np.int32),
            "mask": np.pad(np.ones(len(index), np.float32), (0, padding)),
        }
        rows = slice(self.share[0] * self.rows, (self.share[0] + 1) * self.rows)
        return {name: array[rows] for name, array in whole.items()}


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int | None, epoch: int) -> np.ndarray:
    order = np.arange(num_examples)
    if seed is not None:
        order = np.random.default_rng((seed, epoch)).permutation(order)
    order.setflags(write=False)
    return order
