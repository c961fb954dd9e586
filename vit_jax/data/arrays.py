"""Images that are arrays already: an .npz file, or .npy files that are mapped into memory."""

import re
from pathlib import Path

import numpy as np

from vit_jax.data.labels import numbered_classes
from vit_jax.data.source import ArraySource, DataConfig, DataError, array_digest, digest
from vit_jax.data.splits import parse_split, usual_name
from vit_jax.data.stored import Stored, check_memory, describe, keys_of, read, what_it_is

LAYOUT = (
    "arrays are called x_train and y_train, train_images and train_labels, or images and labels, "
    "and likewise with val and test: keys of an .npz file, or .npy files in a folder"
)
PART = 1 << 24
"""Elements of a large array that are looked at in one go."""


def array_source(config: DataConfig, split: str) -> ArraySource:
    """A whole split of the arrays in `config.root`.

    uint8, uint16 and float32 in .npy files stay mapped, so a set may be larger than the memory.
    Booleans become 0 and 255, other floats float32.

    Raises:
      DataError: a file or array is not as it should be; names it.
    """
    files = _files(config)
    pairs = _pairs(config, files)
    images, labels = (_described(config, files, key) for key in _pair(config, pairs, split))
    train_split = parse_split(config.train_split)[0]
    train = [_described(config, files, key) for key in _pair(config, pairs, train_split)]
    if _image_type(images) != _image_type(train[0]):
        raise DataError(
            f"{images.name} holds {_words(images)} and {train[0].name} {_words(train[0])}: all "
            "splits should hold images of one size and type"
        )
    train_labels = _labels(*train)
    class_names = _class_names(config, files, train_labels, train[1].name)
    found = train_labels if images == train[0] else _labels(images, labels)
    _check_range(found, len(class_names), labels.name)
    pixels, found = _images(images), found.astype(np.int32)
    fingerprint = digest(
        "arrays", pixels.shape, pixels.dtype.str, class_names, array_digest(pixels, found)
    )
    return ArraySource(pixels, found, class_names, fingerprint)


def array_splits(config: DataConfig) -> list[str]:
    """The splits that there are arrays for, by their usual names.

    Raises:
      DataError: there is no such file or folder, or it holds no such arrays.
    """
    return list(_pairs(config, _files(config)))


def _files(config: DataConfig) -> dict[str, str]:
    """The names of arrays as they are stored, by their names in small letters."""
    if config.root is None:
        raise DataError(f"data.name='arrays' needs data.root, the file or folder: {LAYOUT}")
    root = Path(config.root).expanduser()
    if root.is_dir():
        names = sorted(path.stem for path in root.iterdir() if path.suffix == ".npy")
        return {name.lower(): name for name in names}
    if not root.is_file():
        raise DataError(f"data.root={config.root!r}: there is no such file or folder; {LAYOUT}")
    with open(root, "rb") as file:
        start = file.read(512)
    if start.startswith(b"\x93NUMPY"):
        raise DataError(f"{root} is a single array, without labels: {LAYOUT}")
    if not start.startswith(b"PK"):
        raise DataError(f"{root} is no .npz file ({what_it_is(start)}); {LAYOUT}")
    return {key.lower(): key for key in keys_of(root)}


def _pairs(config: DataConfig, files: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The names of every split's images and labels."""
    found: dict[str, tuple[str, str]] = {}
    for key in files:
        if match := re.fullmatch(r"x_(\w+)", key):
            split, labels = match[1], f"y_{match[1]}"
        elif match := re.fullmatch(r"(\w+)_images", key):
            split, labels = match[1], f"{match[1]}_labels"
        elif key == "images":
            split, labels = "train", "labels"
        else:
            continue
        split = usual_name(split)
        if split in found:
            raise DataError(
                f"{config.root}: {found[split][0]!r} and {key!r} are images of one split; keep one"
            )
        found[split] = key, labels
    if not found:
        names = ", ".join(files.values()) or "no arrays"
        raise DataError(f"data.root={config.root!r} holds {names}; {LAYOUT}")
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 3)))


def _pair(config: DataConfig, pairs: dict[str, tuple[str, str]], split: str) -> tuple[str, str]:
    if usual_name(split) not in pairs:
        there = ", ".join(map(repr, pairs))
        raise DataError(f"split {split!r} of {config.root}: there is {there}; {LAYOUT}")
    return pairs[usual_name(split)]


def _described(config: DataConfig, files: dict[str, str], key: str) -> Stored:
    """The description of an array, by its name in small letters."""
    assert config.root is not None, "looked into already"
    root = Path(config.root).expanduser()
    if key not in files:
        raise DataError(f"{root} has no {key!r}, only {', '.join(files.values())}; {LAYOUT}")
    if root.is_dir():
        return describe(root / f"{files[key]}.npy")
    return describe(root, files[key])


def _image_type(images: Stored) -> tuple[tuple[int, ...], str]:
    """[h, w, c] and dtype of what the images become; raises a DataError where it cannot be had."""
    shape, dtype = images.shape, images.dtype
    if len(shape) not in (3, 4):
        raise DataError(
            f"{images.name} has the shape {list(shape)}, but images are [n, height, width] or "
            "[n, height, width, channels]: reshape it"
        )
    if 0 in shape:
        raise DataError(f"{images.name} has the shape {list(shape)}: there is not one pixel")
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        raise DataError(
            f"{images.name} has the shape {list(shape)}, as if the channels came first: "
            "save np.moveaxis(images, 1, -1)"
        )
    pixels = (*shape[1:], 1) if len(shape) == 3 else shape[1:]
    if dtype.kind == "b":
        return pixels, "uint8"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return pixels, "float32"
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return pixels, f"uint{8 * dtype.itemsize}"
    if dtype.kind in "iu":
        array = read(images)
        low, high = int(array.min()), int(array.max())
        fitting = "np.uint16" if high > 255 else "np.uint8"
        fitting = fitting if low >= 0 and high < 65536 else "np.float32"
        raise DataError(
            f"{images.name} holds {dtype} from {low} to {high}: save images.astype({fitting})"
        )
    raise DataError(f"{images.name} holds {dtype}: save uint8, uint16 or float32")


def _words(images: Stored) -> str:
    pixels, dtype = _image_type(images)
    return f"{list(pixels)} {dtype}"


def _images(images: Stored) -> np.ndarray:
    """[n, h, w, c]"""
    _, dtype = _image_type(images)
    array = read(images)
    if array.dtype != dtype:
        check_memory(images)  # what is converted does not stay mapped
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != dtype:
        with np.errstate(over="ignore"):  # found below, with its place
            array = array.astype(dtype)
    array = array if array.ndim == 4 else array[..., None]
    if array.dtype.kind == "f":
        rows = max(1, PART // array[0].size)
        for start in range(0, len(array), rows):
            finite = np.isfinite(array[start : start + rows]).all(axis=(1, 2, 3))
            if not finite.all():
                index = start + int(np.flatnonzero(~finite)[0])
                raise DataError(
                    f"{images.name}: image {index} holds a NaN, an infinity, or a number beyond "
                    "float32"
                )
    return array


def _labels(images: Stored, labels: Stored) -> np.ndarray:
    """Integers [n]."""
    shape, dtype = labels.shape, labels.dtype
    if len(shape) == 2 and shape[1] > 1:
        raise DataError(
            f"{labels.name} has the shape {list(shape)}, but there is one label an image: where "
            "each row marks one class, save labels.argmax(axis=1)"
        )
    if len(shape) not in (1, 2) or dtype.kind not in "iu":
        raise DataError(
            f"{labels.name} holds {dtype} of the shape {list(shape)}, but labels are integers [n], "
            "counted from 0: save labels.astype(np.int64)"
        )
    if shape[0] != images.shape[0]:
        raise DataError(
            f"{images.name} holds {images.shape[0]} images, but {labels.name} {shape[0]} labels"
        )
    return np.array(read(labels), subok=False).reshape(-1)


def _check_range(labels: np.ndarray, classes: int, name: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{name}: label {labels[wrong[0]]} of image {wrong[0]} lies outside the classes "
            f"0..{classes - 1}"
        )


def _class_names(
    config: DataConfig, files: dict[str, str], labels: np.ndarray, name: str
) -> tuple[str, ...]:
    """From `class_names` beside the arrays, else the numbers up to the largest training label."""
    assert config.root is not None, "looked into already"
    text = Path(config.root).expanduser() / "class_names.txt"
    if "class_names" in files:
        stored = _described(config, files, "class_names")
        if len(stored.shape) != 1 or stored.dtype.kind != "U":
            raise DataError(f"{stored.name} should hold text, one name a class")
        names, where = tuple(str(name) for name in read(stored)), stored.name
    elif text.is_file():
        names, where = tuple(text.read_text("utf-8-sig").split("\n")), str(text)
        names = tuple(name.strip() for name in names if name.strip())
    else:
        names, where = numbered_classes(labels, lambda index: f"{name}, image {index}"), name
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"{where}: there should be two classes or more, each once: {list(names)}")
    return names
