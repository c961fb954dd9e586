"""What a data set is, and which part of it is asked for."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np


class Example(TypedDict):
    image: np.ndarray
    """uint8 [h, w, c]"""
    label: int


class DataError(ValueError):
    """Data that cannot be read, found or split as asked; the message says what would be right."""


@runtime_checkable
class Source(Protocol):
    """Labelled images by index. What the resident feed takes is one held in memory whole."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the examples, their order or their labels do."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and which of them for what."""

    name: str = "digits"
    """digits, cifar10, cifar100, tfds:NAME for any TFDS set with image and label, or folder."""
    root: str | None = None
    """Folder of the data. TFDS: its data_dir; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    folder: the one that holds SPLIT/CLASS/FILES."""
    train_split: str = "train[:90%]"
    """Images trained on, in TFDS's notation: a split, or a slice such as train[:90%]."""
    eval_split: str | None = "train[90%:]"
    """Held-out images, evaluated as training goes on; None: no such evaluation."""
    test_split: str | None = "test"
    """Images evaluated once, at the end; None: no test."""
    image_size: int | tuple[int, int] | None = None
    """Pixels on a side, or (height, width), to which images of a folder are resized. None for the
    other sets, whose images have a size of their own."""
    resize: Literal["crop", "squash"] = "crop"
    """How a folder's images are resized: crop keeps the proportions, covers the size and cuts the
    centre out; squash resizes height and width independently."""
    mean: tuple[float, ...] | None = None
    """Mean per channel, of pixels in 0..1; None: that of the training images."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel, of pixels in 0..1; None: that of the training images."""


def declared_size(config: DataConfig) -> tuple[int, int] | None:
    """(height, width) in pixels that `config.image_size` says; None where it is left out.

    Raises:
      DataError: it is below one pixel.
    """
    size = config.image_size
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"data.image_size={size}: should be at least 1 pixel")
    return height, width


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """A source held in memory: uint8 [n, h, w, c] and int labels [n]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}


@dataclasses.dataclass(frozen=True)
class Bound:
    """One end of a slice: a number of images, a percentage, or nothing."""

    value: int | None = None
    percent: bool = False

    def resolve(self, length: int, default: int) -> int:
        """The index this bound stands for in a split of `length` images.

        Raises:
          DataError: it lies outside the split.
        """
        if self.value is None:
            return default
        index = round(self.value * length / 100) if self.percent else self.value
        index += length if self.value < 0 else 0
        if not 0 <= index <= length:
            unit = "%" if self.percent else ""
            raise DataError(
                f"{self.value}{unit} lies outside a split of {length} images: slices go from "
                f"-{length} to {length}, or from -100% to 100%"
            )
        return index


def parse_split(split: str) -> tuple[str, tuple[Bound, Bound]]:
    """ "train[10%:500]" -> ("train", (10 %, 500)), the slice notation of TFDS."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split.strip())
    if not match:
        raise DataError(
            f"split {split!r} cannot be read: write a name, or a slice in images or per cent, such "
            "as train, train[:90%], train[-500:]"
        )
    name, *bounds = match.groups()
    start, stop = (
        Bound() if text is None else Bound(int(text.rstrip("%")), text.endswith("%"))
        for text in bounds
    )
    return name, (start, stop)


def digest(*parts: object) -> str:
    """A short hexadecimal fingerprint of the parts' representations."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [n, h, w, c], of pixels in 0..1.

    Computed exactly, from the histogram of the 256 pixel values.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        stds.append(variance**0.5)
    return tuple(means), tuple(stds)


def check_classes(sources: Sequence[Source]) -> None:
    """Raise a DataError unless all splits name the same classes in the same order."""
    first, *others = sources
    for other in others:
        if other.class_names != first.class_names:
            raise DataError(
                f"the splits have different classes: {first.class_names} and {other.class_names}"
            )
