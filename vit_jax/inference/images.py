"""Images on disk by the names that people give, and a saved model over them, batch by batch."""

import collections
import dataclasses
import functools
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.encoded import Encoded, Files, FileSource
from vit_jax.data.folder import JUNK, files_below, near_names
from vit_jax.data.source import ArraySource, DataError
from vit_jax.inference.saved import SavedModel
from vit_jax.models import ViT
from vit_jax.ops.augment import normalise
from vit_jax.sharding import data_parallel, make_mesh, replicated, select_devices
from vit_jax.train.fill_in import input_shape

Images = Encoded | FileSource | ArraySource
"""Files that become what the model takes, or a data set that is opened with its preprocessing."""
Outputs = Callable[[dict[str, jax.Array]], Any]
"""What is wanted of a batch: (what `ViT.features` returns) -> a pytree of arrays with a first axis
of images. Runs inside jit, which is compiled once for equal ones: a function of a module, or an
object that is equal to another of the same fields."""
AHEAD = 2
"""Batches that are read ahead: one is ready when the device is, and another is being read."""


@dataclasses.dataclass(frozen=True)
class Bad:
    """An image that cannot be read."""

    reason: str

    @classmethod
    def of(cls, error: DataError, name: str) -> "Bad":
        """From what a source raises, whose message begins with the file's name."""
        return cls(str(error).removeprefix(name).strip())


def find_images(names: Sequence[str], lines: Iterable[bytes] | None = None) -> Files:
    """The files that paths, folders and glob patterns stand for, in the order given.

    A folder stands for all files below it by name, without hidden ones; a pattern for the files
    that match, by name, and without `**` for the folders too. "-" stands for names on stdin.

    Args:
      lines: in place of stdin, a name each.

    Raises:
      DataError: a name stands for nothing; says what is called much the same.
    """
    paths: list[str] = []
    for name in names:
        if name != "-":
            paths += _stands_for(name)
            continue
        lines = sys.stdin.buffer if lines is None else lines
        listed = [os.fsdecode(line.rstrip(b"\r\n")) for line in lines]
        lines = ()  # there is no more to come for a second "-"
        for line in filter(None, listed):
            paths += _stands_for(line)
    if not paths:
        raise DataError(
            "no image is named: name files, folders or patterns such as 'photos/**/*.jpg', or - "
            "for names on stdin, one a line"
        )
    return Files("", np.array([os.fsencode(path) for path in paths]))


def _stands_for(name: str) -> list[str]:
    """The files of one name, which are there."""
    path = Path(name).expanduser()
    if os.path.isdir(path):
        found, _ = files_below(path)
        if not found:
            raise DataError(f"{name} is a folder without files in it, hidden ones aside")
        return [os.path.join(path, file) for file in found]
    if os.path.exists(path):  # whatever characters of patterns are in its name
        return [str(path)]
    if not glob.has_magic(name):
        raise DataError(f"{name}: there is no such file or folder{_near(path)}")
    matches = sorted(glob.glob(str(path), recursive=True))
    matches = [match for match in matches if os.path.basename(match).lower() not in JUNK]
    files = [match for match in matches if not os.path.isdir(match)]
    if "**" not in name:  # which matches what is in the folders as well
        files = [file for match in matches for file in _stands_for(match)]
    if not files:
        raise DataError(f"{name} matches no file{_near(path)}")
    return files


def _near(path: Path) -> str:
    """As `near_names`, of the folder that is not there where it is not the file itself."""
    upwards = (*reversed(path.parents), path)
    return near_names(next((part for part in upwards if not os.path.exists(part)), path))


def forward(
    saved: SavedModel, images: Images, outputs: Outputs, batch_size: int = 64
) -> Iterator[Any]:
    """Apply a model to images, and yield for each, in order, its outputs or why it is `Bad`.

    Threads read and resize the next batches while the devices compute. All local devices share a
    batch, as in evaluations, so that predictions are as fast as those; but never more devices than
    there are images, since a device that computes padding only makes the others wait.

    Images of a set in memory that have another size than the model's are resized as those of files
    are, and greyscale ones repeated where it takes RGB.

    Args:
      outputs: what is yielded, as NumPy arrays without the axis of images.
      batch_size: images per step, over all devices. Fewer images make one smaller batch; the last
        one is padded.

    Raises:
      DataError: there are no images, batch_size is below 1, no file can hold what the model takes,
        or images in memory have other proportions or channels.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: should be at least 1")
    if not len(images):
        raise DataError("there are no images")
    read = _reader(saved, images)
    devices = select_devices(saved.config.device)[: len(images)]
    # Rounded to powers of two: calls with a few images each then compile a few shapes.
    batch_size = min(batch_size, 1 << (len(images) - 1).bit_length())
    batch_size = -(-batch_size // len(devices)) * len(devices)
    model: Any = saved.model  # hashable, as all Linen modules are at run time
    step = _compiled(model, saved.mean, saved.std, outputs, tuple(devices))
    params = jax.device_put(saved.params, replicated(make_mesh(devices)))
    return _computed(functools.partial(step, params, ()), _batches(read, len(images), batch_size))


def _computed(step: Callable[[np.ndarray], Any], batches: Iterator[list[Any]]) -> Iterator[Any]:
    """What each image gives. A batch is on its way to the device before the last one is fetched."""
    running: tuple[list[Any], Any] | None = None
    for loaded in batches:
        batch = _stacked(loaded)
        started = loaded, None if batch is None else step(batch)
        if running:
            yield from _one_by_one(*running)
        running = started
    if running:
        yield from _one_by_one(*running)


def _one_by_one(loaded: list[Any], computed: Any) -> Iterator[Any]:
    arrays = jax.device_get(computed)
    for row, image in enumerate(loaded):
        if image is not None:  # else padding
            yield image if isinstance(image, Bad) else jax.tree.map(lambda x, i=row: x[i], arrays)


def _stacked(loaded: list[Any]) -> np.ndarray | None:
    """[b, h, w, c], with zeros for bad images and padding; None: there are no others."""
    there = next((image for image in loaded if isinstance(image, np.ndarray)), None)
    if there is None:
        return None
    batch = np.zeros((len(loaded), *there.shape), there.dtype)
    for row, image in enumerate(loaded):
        if isinstance(image, np.ndarray):
            batch[row] = image
    return batch


def _batches(
    read: Callable[[int], np.ndarray | Bad], number: int, batch_size: int
) -> Iterator[list[Any]]:
    """Images 0..number-1 or why they are bad, in batches filled up with None, read ahead."""
    starts = collections.deque(range(0, number, batch_size))
    waiting: collections.deque[list[Future[np.ndarray | Bad]]] = collections.deque()
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        while starts or waiting:
            while starts and len(waiting) <= AHEAD:
                first = starts.popleft()
                rows = range(first, min(first + batch_size, number))
                waiting.append([pool.submit(read, row) for row in rows])
            batch: list[Any] = [future.result() for future in waiting.popleft()]
            yield batch + [None] * (batch_size - len(batch))
    finally:
        pool.shutdown(cancel_futures=True)


def _reader(saved: SavedModel, images: Images) -> Callable[[int], np.ndarray | Bad]:
    """Image by index: [h, w, c]."""
    if isinstance(images, ArraySource):
        _check_shape(images.image_shape, input_shape(saved.model), saved.source)
        reasons = images.bad
        return lambda i: Bad(reasons[i]) if i in reasons else images.images[i]
    source = images if isinstance(images, FileSource) else unlabelled(images, saved)

    def read(index: int) -> np.ndarray | Bad:
        try:
            return source.image(index)
        # Also of another kind of pixels than the model takes: the other images are good.
        except DataError as error:
            return Bad.of(error, source.name(index))

    return read


def unlabelled(images: Encoded, saved: SavedModel) -> FileSource:
    """Files as a source of what a model takes; its labels mean nothing."""
    return FileSource(images, np.zeros(len(images), np.int32), (), "", saved.pixels())


@functools.lru_cache(maxsize=16)
def _compiled(
    model: ViT,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    outputs: Outputs,
    devices: tuple[jax.Device, ...],
) -> Callable[[Any, Any, Any], Any]:
    """(params, (), images [b, h, w, c] as they were read) -> outputs."""

    def step(params: Any, resident: tuple[()], images: jax.Array, axis_name: None = None) -> Any:
        normalised = normalise(_fitted(images, input_shape(model)), mean, std)
        # Flax types `apply` for all its uses.
        apply = cast(Any, model.apply)
        return outputs(apply({"params": params}, normalised, method="features"))

    return data_parallel(step, make_mesh(list(devices)), "auto")


def _check_shape(there: tuple[int, int, int], taken: tuple[int, int, int], model: str) -> None:
    """Raise a DataError unless `_fitted` can turn images of one shape (h, w, c) into another's."""
    height, width, channels = there
    if height * taken[1] != width * taken[0] or channels not in (1, taken[2]):
        raise DataError(
            f"{model} takes images of (height, width, channels) {taken}, and these are {there}: "
            "only the size is changed, and greyscale repeated"
        )


def _fitted(images: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[b, h, w, c] in the shape that a model takes; as they are where they have it."""
    height, width, channels = shape
    if images.shape[1:3] != (height, width):
        integers = jnp.issubdtype(images.dtype, jnp.integer)
        top = jnp.iinfo(images.dtype).max if integers else 1
        images = images.astype(jnp.float32)
        # As Pillow does: antialiased, across and then down, with whole numbers after either.
        for rows, columns in ((images.shape[1], width), (height, width)):
            size = (len(images), rows, columns, images.shape[3])
            images = jax.image.resize(images, size, "bicubic")
            images = images.round().clip(0, top) if integers else images
        images = images / top
    return jnp.repeat(images, channels // images.shape[3], axis=3)
