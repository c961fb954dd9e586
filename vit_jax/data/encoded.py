"""Sources of encoded images: files on disk, decoded when they are needed."""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from vit_jax.data.decode import (
    BadImageError,
    Box,
    Pixels,
    decode,
    dtype_of,
    is_grey,
    opened,
)
from vit_jax.data.source import ArraySource, DataConfig, DataError, Example, declared_size, digest

T = TypeVar("T")
R = TypeVar("R")
SAMPLE = 1024
"""Files whose headers are read to find out whether a set is greyscale, and how deep."""


@runtime_checkable
class Encoded(Protocol):
    """Where encoded images are; small enough to be sent to a worker process."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What people know the image by."""
        ...

    def open(self, index: int) -> io.BufferedIOBase:
        """A stream of the encoded image, positioned at its start."""
        ...

    def take(self, indices: np.ndarray) -> "Encoded":
        """These images, in this order."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files of one folder."""

    folder: str
    paths: np.ndarray
    """bytes [n], relative to the folder; an array, because a set can have millions"""

    @classmethod
    def of(cls, folder: Path, paths: list[str]) -> "Files":
        return cls(str(folder), np.array([os.fsencode(path) for path in paths]))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.paths[index]))

    def open(self, index: int) -> io.BufferedIOBase:
        return open(self.name(index), "rb")

    def take(self, indices: np.ndarray) -> "Files":
        return Files(self.folder, self.paths[indices])


@dataclasses.dataclass(frozen=True)
class FileSource:
    """A source whose images are decoded and resized each time they are asked for."""

    encoded: Encoded
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        """Raises a BadImageError where there is no picture in the file."""
        return {"image": self.image(index), "label": int(self.labels[index])}

    def image(self, index: int, choose_box: Callable[[int, int], Box] | None = None) -> np.ndarray:
        """[h, w, c]; see `decode`."""
        name = self.encoded.name(index)
        try:
            file = self.encoded.open(index)
        except OSError as error:
            raise BadImageError(f"{name} cannot be opened ({error.strerror or error})") from error
        with file:
            return decode(file, name, self.pixels, choose_box)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.pixels.height, self.pixels.width, self.pixels.channels

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.pixels.dtype)

    def name(self, index: int) -> str:
        return self.encoded.name(index)

    def take(self, indices: np.ndarray) -> "FileSource":
        return dataclasses.replace(
            self,
            encoded=self.encoded.take(indices),
            labels=self.labels[indices],
            fingerprint=digest(self.fingerprint, indices.tobytes()),
        )


def pixels_of(config: DataConfig, train: Encoded) -> Pixels:
    """What the images of a set become; channels and depth follow from its training images.

    Raises:
      DataError: `image_size` is missing, or `channels` is neither 1 nor 3.
    """
    size = declared_size(config)
    if size is None:
        raise DataError(
            f"data.name={config.name!r} needs data.image_size: set it to the pixels on a side, or "
            "(height, width), of the images the model takes, such as 224"
        )
    if config.channels not in (None, 1, 3):
        raise DataError(
            f"data.channels={config.channels}: files become greyscale (1) or RGB (3); images with "
            "other channels can be had as arrays, data.name='arrays'"
        )
    channels, dtype, found_grey = config.channels, "uint8", False
    if channels != 3:
        grey, dtypes = _looked_at(train, config.max_pixels)
        found_grey = channels is None and grey
        if channels == 1 or grey:
            channels, dtype = 1, next(iter(dtypes)) if len(dtypes) == 1 else "uint8"
    return Pixels(
        *size,
        channels=channels or 3,
        dtype=dtype,
        keep_proportions=config.resize == "crop",
        crop_fraction=config.crop_fraction,
        background=config.background,
        max_pixels=config.max_pixels,
        found_grey=found_grey,
        crop_rounding=config.crop_rounding,
        interpolation=config.interpolation,
    )


def _looked_at(encoded: Encoded, max_pixels: int) -> tuple[bool, set[str]]:
    """Whether images spread over the set are all greyscale, and the dtypes of their pixels."""
    dtypes = set()
    for index in spread(len(encoded), SAMPLE):
        name = encoded.name(index)
        try:
            with encoded.open(index) as file, opened(file, name, max_pixels) as image:
                if not is_grey(image):
                    return False, {"uint8"}
                dtypes.add(dtype_of(image))
        except (BadImageError, OSError):
            continue  # reported when it is its turn, as `on_bad_image` says
    return bool(dtypes), dtypes


def spread(length: int, number: int) -> list[int]:
    """At most so many indices, evenly over 0..length-1."""
    return np.unique(np.linspace(0, length - 1, number).astype(int)).tolist()


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results in order; Pillow, hashlib and the file system work without Python's lock."""
    # In parts: a pool's `map` would submit, and keep, the results of a whole set.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), 1024):
            yield from pool.map(function, items[start : start + 1024])


def sizes_and_times(encoded: Encoded) -> np.ndarray:
    """int64 [n, 2], bytes and time of the last change in nanoseconds, of files; else [0, 2]."""
    if not isinstance(encoded, Files):
        return np.zeros((0, 2), np.int64)

    def look(index: int) -> tuple[int, int]:
        try:
            found = os.stat(encoded.name(index))
        except OSError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    found = list(in_threads(look, range(len(encoded))))
    return np.array(found, np.int64).reshape(-1, 2)


def contents_digest(encoded: Encoded) -> str:
    """Of the sizes of all files, and the bytes of 256 images spread over the set."""
    contents = [digest(sizes_and_times(encoded)[:, 0].tobytes())]
    for index in spread(len(encoded), 256):
        try:
            with encoded.open(index) as file:
                contents.append(digest(file.read()))
        except OSError:
            contents.append("")
    return digest(contents)


def decode_all(
    source: FileSource, skip_bad: bool = True, out: np.ndarray | None = None
) -> ArraySource:
    """Every image of a source, decoded in threads: Pillow works without holding Python's lock.

    Args:
      skip_bad: note what cannot be read in `bad`; else it is an error.
      out: an array to decode into, such as one mapped from a file; None: one in memory.

    Raises:
      BadImageError: without `skip_bad`, naming the file.
    """
    images = out
    if images is None:
        # Zeros where a file is bad: what memory happens to hold could be no number at all.
        images = np.zeros((len(source), *source.image_shape), source.dtype)
    bad: dict[int, str] = {}

    def attempt(index: int) -> np.ndarray | BadImageError:
        try:
            return source.image(index)
        except BadImageError as error:
            return error

    for index, image in enumerate(in_threads(attempt, range(len(source)))):
        if isinstance(image, np.ndarray):
            images[index] = image
        elif skip_bad:
            bad[index] = image.reason(source.name(index))
        else:
            raise with_remedy(image)
    names = [source.name(index) for index in range(len(source))]
    return ArraySource(images, source.labels, source.class_names, source.fingerprint, names, bad)


def with_remedy(error: BadImageError) -> BadImageError:
    """The error that ends a run, which says what can be done about the file."""
    return BadImageError(
        f"{error}; replace it, remove it, or leave such files out with data.on_bad_image=skip"
    )
