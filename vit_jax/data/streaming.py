"""The streaming feed: the host reads images as training goes on, in worker processes or threads.

What a step gets depends on (seed, step) alone, however many workers there are, and any step can be
the first one.
"""

import contextlib
import dataclasses
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_jax.data.decode import BadImageError, Box
from vit_jax.data.encoded import FileSource, with_remedy
from vit_jax.data.order import Order
from vit_jax.data.source import ArraySource, DataError

ELEMENTS = 2**50
"""Of a feed, which goes on until it is closed."""
STOPPING = {
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # not all are known to every system
}
"""Signals by which people and schedulers end a run, and often its whole process group."""


MANY = 8
"""Files that are read together: if none of so many can be, it is not the files."""


class WorkerError(RuntimeError):
    """A process that read images has died; the message says of what and what may help."""


Loaded = dict[str, np.ndarray]
"""A batch as the host has read it: `Slots`, and the "image" and "label" of `resident.Batch`."""


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """The part of an image that is resized: its share of the area and its width / height."""

    area: tuple[float, float]
    ratio: tuple[float, float]
    seed: int

    def box(self, step: int, place: int, width: int, height: int) -> Box:
        """A box drawn as for Inception (arXiv 1409.4842, section 6): area and ratio, then place.

        Ten draws that do not fit are answered with the largest centred box of a ratio in range.
        """
        # The last number keeps the stream apart from that of the order of examples.
        rng = np.random.default_rng((self.seed, step, place, 1))
        for _ in range(10):
            area = width * height * rng.uniform(*self.area)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            across, down = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < across <= width and 0 < down <= height:
                left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
                return float(left), float(top), float(left + across), float(top + down)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        across, down = min(width, height * ratio), min(height, width / ratio)
        left, top = max(0, (width - across) / 2), max(0, (height - down) / 2)
        return left, top, min(width, left + across), min(height, top + down)


@dataclasses.dataclass(frozen=True)
class PartLoader:
    """Reads element `step * parts + part`: that part of the batch of that step."""

    source: ArraySource | FileSource
    order: Order
    parts: int
    crop: RandomCrop | None
    skip_bad: bool

    def __call__(self, element: int) -> tuple[Loaded, dict[int, str]]:
        """The part of a batch, and the examples in it that could not be read, and why."""
        step, part = divmod(element, self.parts)
        slots = self.order.slots(step)
        bounds = np.linspace(0, self.order.rows, self.parts + 1).astype(int)
        rows = slice(bounds[part], bounds[part + 1])
        index, place, mask = (slots[key][rows] for key in ("index", "place", "mask"))
        if isinstance(self.source, ArraySource):
            image, bad = self.source.images[index], self.source.bad
            bad = {int(i): bad[int(i)] for i in index if int(i) in bad}
        else:
            image, bad = self._decoded(self.source, step, index, place, mask)
        if bad:
            mask = mask * ~np.isin(index, list(bad))
        label = self.source.labels[index]
        return {"image": image, "label": label, "index": index, "place": place, "mask": mask}, bad

    def _decoded(
        self, source: FileSource, step: int, *slots: np.ndarray
    ) -> tuple[np.ndarray, dict[int, str]]:
        images = np.zeros((len(slots[0]), *source.image_shape), source.dtype)
        bad: dict[int, str] = {}
        for row, (index, place, mask) in enumerate(zip(*slots, strict=True)):
            if not mask:
                continue  # padding
            try:
                images[row] = source.image(int(index), self._choose_box(step, int(place)))
            except BadImageError as error:
                if not self.skip_bad:
                    raise with_remedy(error) from error
                bad[int(index)] = error.reason(source.name(int(index)))
        wanted = {int(index) for index, _, mask in zip(*slots, strict=True) if mask}
        if len(bad) == len(wanted) >= MANY:
            index, why = next(iter(bad.items()))
            raise DataError(
                f"none of {len(bad)} files could be read, the first of them {source.name(index)} "
                f"({why}): is the disk still there? data.on_bad_image=skip is for single files"
            )
        return images, bad

    def _choose_box(self, step: int, place: int) -> Any:
        if self.crop is None:
            return None
        crop = self.crop
        return lambda width, height: crop.box(step, place, width, height)


class StreamingFeed:
    """Batches of a source that the host reads ahead of the steps."""

    resident = ()
    sharding = None

    def __init__(
        self,
        source: ArraySource | FileSource,
        order: Order,
        *,
        workers: int = 0,
        threads: int = 1,
        crop: RandomCrop | None = None,
        skip_bad: bool = False,
    ):
        """`workers` processes read, or, where that is 0, `threads` of this one."""
        self.order = order
        self.num_examples = len(source)
        self.batch_size = order.batch_size
        self.steps_per_epoch = order.steps_per_epoch
        self.crops_on_host = crop is not None
        self.bad_images: dict[str, str] = {}
        """Files that held no picture, by name, and why; as far as they have been met."""
        self.workers = workers
        self.threads = threads
        self.parts = min(max(1, workers or threads), order.rows)
        self.loader = PartLoader(source, order, self.parts, crop, skip_bad)
        self._iterator: Any = None
        self._ahead: list[tuple[Loaded, dict[int, str]]] = []
        self._next: int | None = None

    def plan(self, step: int) -> Loaded:
        """The batch of a step, counted from 0 over all epochs; quick where steps follow each other.

        Raises:
          BadImageError: a file holds no picture and is not to be skipped.
          WorkerError: a worker process has died.
        """
        # Without a seed all epochs are alike, and an evaluation goes on where the last one ended.
        if self.order.seed is None and self._next is not None:
            step += (self._next - step) // self.steps_per_epoch * self.steps_per_epoch
        if step != self._next:
            self._start(step)
        with _clear_errors(self.workers):
            loaded, self._ahead = self._ahead, []
            while len(loaded) < self.parts:
                loaded.append(next(self._iterator))
        self._next = step + 1
        for _, bad in loaded:
            self.bad_images |= {self.loader.source.name(i): why for i, why in bad.items()}
        parts = [part for part, _ in loaded]
        # Copied even where there is one part: what jax does with it, and when, is its own affair.
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def gather(self, resident: tuple[()], plan: Any) -> Any:
        """The batch of a plan, which is the plan."""
        return plan

    def close(self) -> None:
        """End the workers."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = self._next = None
        self._ahead = []

    def _start(self, step: int) -> None:
        import grain
        from absl import flags

        self.close()
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads flags, of which we have none
        elements = grain.MapDataset.range(step * self.parts, ELEMENTS)
        threads = 0 if self.workers else self.threads
        dataset = elements.map(self.loader).to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        )
        if self.workers:
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=1)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_WorkerStart(os.getpid()))
        self._iterator = iter(dataset)
        with _signals_held_back(), _clear_errors(self.workers):
            self._ahead = [next(self._iterator)]  # starts the processes


@dataclasses.dataclass(frozen=True)
class _WorkerStart:
    """Runs in each worker first."""

    parent: int

    def __call__(self, worker: int, workers: int) -> None:
        # Ctrl-C and a scheduler's SIGTERM go to the whole process group. The training process needs
        # its workers until it has saved, and then ends them itself.
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._end_with_parent, daemon=True).start()

    def _end_with_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(1)
        os._exit(1)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Signals that end a run wait; processes started inside ignore them before they get one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _clear_errors(workers: int) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except RuntimeError as error:
        code = re.search(r"exit code (-?\d+)", str(error))
        if code is None:
            raise
        raise WorkerError(_cause_of_death(int(code[1]), workers)) from error


def _cause_of_death(code: int, workers: int) -> str:
    death = f"exit code {code}"
    if code < 0:
        death = signal.Signals(-code).name
    advice = {
        -signal.SIGKILL: f"likely for want of memory: lower data.workers={workers}",
        -signal.SIGBUS: "likely for want of shared memory: enlarge /dev/shm (docker run "
        "--shm-size), or set data.workers=0",
    }.get(code, "its own words stand above")
    return f"a process that reads images has died ({death}); {advice}"
