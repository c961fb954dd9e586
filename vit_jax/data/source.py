"""What a data set is, and the fields of a config that say which one and how it is read."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

Resize = Literal["crop", "squash"]
CropRounding = Literal["none", "even", "down"]
Resampling = Literal["bicubic", "bilinear", "lanczos", "hamming"]
"""Pillow's filters, which are antialiased."""


class Example(TypedDict):
    image: np.ndarray
    """[h, w, c]; uint8, or uint16 or float32 where that is what the data hold"""
    label: int


class DataError(ValueError):
    """Data that cannot be read, found or split as asked; the message says what would be right."""


@runtime_checkable
class Source(Protocol):
    """Labelled images by index, all of one shape and dtype: an `ArraySource` or a `FileSource`."""

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], places in `class_names`."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the examples, their order or their labels do."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels: uint8, uint16 or float32."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def name(self, index: int) -> str:
        """What people know the example by: its file, or its place in the set."""
        ...

    def take(self, indices: np.ndarray) -> "Source":
        """These examples, in this order."""
        ...


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, which of them for what, and how they get to the devices."""

    name: str = "digits"
    """digits, cifar10, cifar100, tfds:NAME for any TFDS set with image and label, folder for images
    in folders, csv for a table of paths and labels, arrays for .npz and .npy files, or huggingface
    for a set that `datasets` has saved to disk."""
    root: str | None = None
    """Folder or file of the data. TFDS: its data_dir; None: $TFDS_DATA_DIR or
    ~/tensorflow_datasets. folder: ROOT/SPLIT/CLASS/FILES or ROOT/CLASS/FILES, or an archive of
    them. csv: a .csv, .tsv or .jsonl file, or a folder with one per split."""
    train_split: str = "train[:90%]"
    """Images trained on, in TFDS's notation: a split, or a slice such as train[:90%]."""
    eval_split: str | None = "train[90%:]"
    """Held-out images, evaluated as training goes on; None: no such evaluation. auto: the
    validation split, and where there is none a part of the training images, see `holdout`."""
    test_split: str | None = "test"
    """Images evaluated once, at the end; None: no test. auto: the test split where there is one."""
    holdout: float = 0.1
    """Share of every class's training images that is held out for evaluation, where eval_split is
    auto and the data have no validation split."""
    holdout_seed: int = 0
    """Fixes which images are held out."""
    image_size: int | tuple[int, int] | None = None
    """Pixels on a side, or (height, width), to which encoded images are resized. None for sets
    whose images have one size of their own."""
    resize: Resize = "crop"
    """How images are resized: crop keeps the proportions, covers the size and cuts the centre out;
    squash resizes height and width independently."""
    crop_fraction: float = 1.0
    """Share of the sides that the centre keeps, of the shorter one with resize=crop; 0.875 for
    ImageNet."""
    crop_rounding: CropRounding = "none"
    """none: the centre is cut exactly. The systems that publish weights resize to whole pixels
    first and cut whole pixels: even, as torchvision and timm round half a pixel, or down, as
    transformers does."""
    interpolation: Resampling = "bicubic"
    """Filter of resizing, antialiased."""
    channels: int | None = None
    """1 for greyscale or 3 for RGB, to which encoded images are converted. None: as up to 1,024 of
    the training images are: 1 where those are all greyscale, else 3."""
    background: Literal["white", "black"] = "white"
    """What transparent pictures are laid on."""
    mean: tuple[float, ...] | None = None
    """Mean per channel, of pixels in 0..1; None: that of the training images."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel, of pixels in 0..1; None: that of the training images."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What a file that holds no picture does: error ends the run and names it; skip leaves it out,
    counts it and lists it in bad_images.txt, and all other images keep their places."""
    max_pixels: int = 50_000_000
    """Pictures with more pixels are bad: a small file can claim to hold any number."""
    image_column: str | None = None
    """Of a table: the column of the paths; None: path, image, file, filename or id."""
    label_column: str | None = None
    """Of a table or a `datasets` set: the column of the labels; None: label, class,
    target or category."""
    image_path: str = "{}"
    """Of a table: how a path follows from the column, such as train/{}.jpg; relative paths start at
    the table's folder."""
    feed: Literal["auto", "resident", "streaming"] = "auto"
    """resident: all images in device memory; streaming: the host reads them as training goes on;
    auto: resident where the images fit the share of the memory."""
    resident_share: float = 0.25
    """Share of the devices' memory that resident images may take."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Where decoded images of `image_size` are kept for the streaming feed: in the host's memory,
    in a file in the user's cache folder for this run and later ones, or nowhere. auto: sets of TFDS
    with one size on disk, others nowhere. Random crops then come out of the resized image."""
    workers: int | None = None
    """Processes that decode files for the streaming feed; 0: threads of the training process
    instead. None: one per CPU core, 16 at most."""


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
    """A source held in memory or mapped from a file: images [n, h, w, c] and int labels [n]."""

    images: np.ndarray
    """uint8, uint16 or float32"""
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    names: Sequence[str] | None = None
    """What people know the examples by; None: by their place."""
    bad: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Examples that could not be read, whose pixels mean nothing, and why."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype

    def name(self, index: int) -> str:
        return str(index) if self.names is None else self.names[index]

    def take(self, indices: np.ndarray) -> "ArraySource":
        """These examples, in this order; without a copy where they lie side by side."""
        rows = _as_slice(indices)
        names, place = self.names, {int(index): new for new, index in enumerate(indices)}
        return ArraySource(
            self.images[rows],
            self.labels[rows],
            self.class_names,
            digest(self.fingerprint, indices.tobytes()),
            names if names is None else [names[i] for i in indices],
            {place[index]: reason for index, reason in self.bad.items() if index in place},
        )


def _as_slice(indices: np.ndarray) -> slice | np.ndarray:
    """A slice of the same elements where the indices go up by one."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def digest(*parts: object) -> str:
    """A short hexadecimal fingerprint of the parts' representations."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def array_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Of all labels and 256 images spread over the set: quick, and different for different data."""
    spread = np.linspace(0, len(labels) - 1, 256).astype(int)
    return digest(images[np.unique(spread)].tobytes(), labels.tobytes())


def check_classes(sources: Sequence[Source]) -> None:
    """Raise a DataError unless all splits name the same classes in the same order."""
    first, *others = sources
    for other in others:
        if other.class_names != first.class_names:
            raise DataError(
                f"the splits have different classes: {first.class_names} and {other.class_names}"
            )
