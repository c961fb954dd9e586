"""Sets that Hugging Face's `datasets` has saved to disk: an image column and a label column.

The pictures are taken as they are encoded and decoded here as all others are.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.encoded import FileSource, contents_digest, pixels_of
from vit_jax.data.labels import classes_of, numbered
from vit_jax.data.source import DataConfig, DataError, digest
from vit_jax.data.splits import parse_split, usual_name
from vit_jax.data.table import LABEL_COLUMNS, column_of

LAYOUT = "data.root is a folder that save_to_disk of `datasets` has written"


@dataclasses.dataclass(frozen=True)
class SavedImages:
    """The image column of a saved set; every process opens the set for itself."""

    folder: str
    """Of one split."""
    split: str
    column: str
    rows: np.ndarray
    """int64 [n], of the saved set."""

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """ "train/000123", of row 123."""
        return f"{self.split}/{self.rows[index]:06d}"

    def open(self, index: int) -> BufferedIOBase:
        images = _image_column(self.folder, self.column, _stamp(self.folder))
        saved = images[int(self.rows[index])][self.column] or {}
        if saved.get("bytes") is not None:
            return BytesIO(saved["bytes"])
        if saved.get("path"):
            return open(os.path.join(self.folder, saved["path"]), "rb")
        raise OSError(errno.ENODATA, "the row holds no image")

    def take(self, indices: np.ndarray) -> "SavedImages":
        return dataclasses.replace(self, rows=self.rows[indices])


def saved_source(config: DataConfig, split: str) -> FileSource:
    """A whole split of the set saved in `config.root`.

    A `ClassLabel` brings its names along; text and integers become classes as those of a table do.

    Raises:
      DataError: `datasets` is not installed, or the set, its columns or labels are not as they
        should be.
    """
    encoded, labels, names = _opened(config, split)
    train_split = parse_split(config.train_split)[0]
    train, train_labels, train_names = encoded, labels, names
    if usual_name(train_split) != usual_name(split):
        train, train_labels, train_names = _opened(config, train_split)
    if (names is None) != (train_names is None):
        raise DataError(
            f"{config.root}: the labels of {split!r} and {train_split!r} differ in kind"
        )
    if names is None:
        names = classes_of(train_labels, _where(train))
        labels = numbered(labels, names, _where(encoded))
    else:
        labels = _places(labels, names, _where(encoded))
    pixels = pixels_of(config, train)
    contents = contents_digest(encoded)
    fingerprint = digest("huggingface", len(encoded), names, labels.tobytes(), contents, pixels)
    return FileSource(encoded, labels, names, fingerprint, pixels)


def saved_splits(config: DataConfig) -> list[str]:
    """The splits of the saved set, by their usual names; a set saved without splits is "train".

    Raises:
      DataError: there is no such set.
    """
    return list(_split_folders(config))


def _opened(
    config: DataConfig, split: str
) -> tuple[SavedImages, list[Any], tuple[str, ...] | None]:
    """The images, labels and, where the set has them, class names of a split."""
    datasets = _library()
    folders = _split_folders(config)
    if usual_name(split) not in folders:
        there = ", ".join(map(repr, folders))
        raise DataError(f"split {split!r} of {config.root}: there is {there}")
    folder = folders[usual_name(split)]
    saved = _load(str(folder))
    features = saved.features
    image = _feature_column(config.image_column, features, datasets.Image, "image_column", folder)
    label = _label_column(config, features, folder)
    labels = saved.select_columns([label]).with_format(None)[:][label]
    if not labels:
        raise DataError(f"{folder} has no rows")
    encoded = SavedImages(str(folder), usual_name(split), image, np.arange(len(labels)))
    where = _where(encoded)
    for row, value in enumerate(labels):
        if value is None or value == "":
            raise DataError(f"{where(row)}: the {label} is missing")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{where(row)}: {label} {value!r} should be text or a whole number")
    if isinstance(features[label], datasets.ClassLabel):
        return encoded, labels, tuple(features[label].names)
    return encoded, [str(value).strip() for value in labels], None


def _where(encoded: SavedImages) -> Callable[[int], str]:
    return lambda row: f"{encoded.folder}, row {row}"


def _places(labels: list[int], names: tuple[str, ...], where: Callable[[int], str]) -> np.ndarray:
    """int32 [n]: the labels of a `ClassLabel`, which are places already."""
    places = np.array(labels)
    wrong = np.flatnonzero((places < 0) | (places >= len(names)))
    if len(wrong):
        raise DataError(
            f"{where(int(wrong[0]))}: label {places[wrong[0]]} lies outside the {len(names)} "
            "classes, as in splits without labels: choose another split"
        )
    return places.astype(np.int32)


def _label_column(config: DataConfig, features: Any, folder: Path) -> str:
    """The column the config names, else the only `ClassLabel`, else one with a usual name."""
    kind = _library().ClassLabel
    labelled = [name for name, feature in features.items() if isinstance(feature, kind)]
    if config.label_column is None and len(labelled) == 1:
        return labelled[0]
    if config.label_column is None and labelled:
        return _feature_column(None, features, kind, "label_column", folder)
    where = str(folder)
    return column_of(list(features), config.label_column, LABEL_COLUMNS, "label_column", where)


def _feature_column(wanted: str | None, features: Any, kind: type, field: str, folder: Path) -> str:
    """The column the config names, or the only one, of a kind of feature."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted is not None:
        what = f"column {wanted!r} is no {kind.__name__} feature"
    else:
        what = f"there are {len(found)} {kind.__name__} features ({', '.join(found) or 'none'})"
    raise DataError(f"{folder}: {what}; set data.{field} to one of the features {dict(features)}")


def _split_folders(config: DataConfig) -> dict[str, Path]:
    """The folder of every split, by its usual name."""
    if config.root is None:
        raise DataError(f"data.name='huggingface' needs data.root: {LAYOUT}")
    root = Path(config.root).expanduser()
    if (root / "state.json").is_file():
        return {"train": root}
    try:
        splits = json.loads((root / "dataset_dict.json").read_text("utf-8"))["splits"]
    except FileNotFoundError as error:
        raise DataError(f"data.root={config.root!r} holds no saved set: {LAYOUT}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{root / 'dataset_dict.json'} cannot be read ({error})") from error
    found: dict[str, Path] = {}
    for split in splits:
        usual = usual_name(split)
        if usual in found:
            raise DataError(f"{found[usual]} and {root / split} are names of one split")
        found[usual] = root / split
    return found


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "data.name='huggingface' needs Hugging Face's `datasets`: pip install datasets"
        ) from error
    return datasets


def _load(folder: str) -> Any:
    """A saved split, its files mapped; raises a DataError where they are missing or damaged."""
    datasets = _library()
    try:
        with _without_progress_bars():
            return datasets.load_from_disk(folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder} cannot be read ({error}): save the set again") from error


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """`datasets` draws a bar on a terminal while it opens more than 16 files."""
    datasets = _library()
    # The environment's word goes first; `datasets` would answer with a warning.
    shown = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None
    shown = shown and not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@functools.lru_cache(maxsize=8)
def _image_column(folder: str, column: str, stamp: int) -> Any:
    """The rows of a set with nothing but the encoded images; kept for as long as the set is."""
    images = _load(folder).with_format(None).select_columns([column])
    return images.cast_column(column, _library().Image(decode=False))


def _stamp(folder: str) -> int:
    """Another one when the set has been saved anew."""
    return os.stat(os.path.join(folder, "state.json")).st_mtime_ns
