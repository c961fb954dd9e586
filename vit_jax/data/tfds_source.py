"""Images and labels of TFDS data sets, read without TensorFlow.

A prepared set is decoded once into two arrays, kept as .npy files beside the data (or, where that
folder cannot be written, in the user's cache folder), so later runs start at once.
"""

import difflib
import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.source import ArraySource, DataError, digest


def tfds_arrays(name: str, split: str, root: str | None) -> ArraySource:
    """A whole split of a TFDS set, every image decoded to uint8 [h, w, c].

    CIFAR-10 and CIFAR-100 are downloaded and prepared if they are not on disk yet.

    Raises:
      DataError: TFDS knows no such set, it is not on disk, it has no such split, it holds no image
        with one label, or its images differ in size.
    """
    builder = _prepared_builder(name, root)
    if split not in builder.info.splits:
        raise DataError(
            f"split {split!r} of {name}: there are {', '.join(map(repr, builder.info.splits))}"
        )
    image_key, label_key = _supervised_keys(builder)
    label_feature = builder.info.features[label_key]
    images, labels = _cached(builder, split, image_key, label_key)
    return ArraySource(
        images,
        labels,
        class_names=tuple(label_feature.names),
        fingerprint=digest(builder.info.full_name, split, images.shape, _checksum(images, labels)),
    )


def data_dir(root: str | None) -> Path:
    """The folder TFDS keeps its data in: `root`, $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _prepared_builder(name: str, root: str | None) -> Any:
    import tensorflow_datasets as tfds

    folder = data_dir(root)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        # Without the community's sets, whose list would be fetched from the network.
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; perhaps {' or '.join(near)}" if near else ""
        raise DataError(f"TFDS knows no data set {name!r}{hint}") from error
    except (ValueError, AssertionError) as error:
        # TFDS's own words for a malformed name, config or version.
        raise DataError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error
    if builder.info.splits:
        return builder
    if name not in ("cifar10", "cifar100"):
        raise DataError(
            f"{name} is not prepared in {folder}. Prepare it once with TensorFlow installed "
            f"(pip install tensorflow): tfds build {name} --data_dir={folder} "
            "--file_format=array_record"
        )
    from vit_jax.data.prepare_cifar import prepare_cifar

    prepare_cifar(name, folder)
    return tfds.builder(name, data_dir=folder)


def _supervised_keys(builder: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    keys = builder.info.supervised_keys or ("image", "label")
    image_key, label_key = keys[0], keys[1]
    if not (
        isinstance(features.get(image_key), tfds.features.Image)
        and isinstance(features.get(label_key), tfds.features.ClassLabel)
    ):
        raise DataError(
            f"{builder.name} has no image with one class label; its features are {features}"
        )
    return image_key, label_key


def _cached(
    builder: Any, split: str, image_key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, h, w, c] and labels [n] of a split, from the cache or decoded into it."""
    folder = _cache_folder(builder)
    files = folder / f"{split}-images.npy", folder / f"{split}-labels.npy"
    try:
        return np.load(files[0], mmap_mode="r"), np.load(files[1])
    except (OSError, ValueError):
        pass  # not there yet, or damaged: decoded below, and written anew
    records = list(_records(builder, split))
    expected = builder.info.splits[split].num_examples
    if len(records) != expected:
        raise DataError(
            f"split {split!r} in {builder.data_dir} holds {len(records)} images, but its "
            f"dataset_info.json says {expected}: delete the folder and prepare it again"
        )
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda record: _decode(record, image_key), records))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"the images of {builder.name} differ in size ({len(shapes)} shapes, such as "
            f"{sorted(shapes)[:3]}); a set held in device memory needs one size"
        )
    labels = [record.features.feature[label_key].int64_list.value[0] for record in records]
    classes = builder.info.features[label_key].num_classes
    if not all(0 <= label < classes for label in labels):
        raise DataError(
            f"split {split!r} of {builder.name} has labels outside 0..{classes - 1}, as splits "
            "without labels do: choose another split"
        )
    _write_whole(files[0], np.stack(images))
    _write_whole(files[1], np.array(labels, np.int32))
    return np.load(files[0], mmap_mode="r"), np.load(files[1])


def _cache_folder(builder: Any) -> Path:
    beside = Path(builder.data_dir)
    # The mode bits as well, because root may write to a folder its owner has marked read-only.
    if os.access(beside, os.W_OK) and beside.stat().st_mode & stat.S_IWUSR:
        folder = beside / "vit_jax_decoded"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_jax"
        # A set prepared anew at the same place has another description, at least a younger one.
        info = beside / "dataset_info.json"
        folder = cache / digest(str(beside.resolve()), info.read_text(), info.stat().st_mtime_ns)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_whole(file: Path, array: np.ndarray) -> None:
    """Write under another name, then rename: the file is whole or not there."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as stream:
        np.save(stream, array)
    os.replace(temporary, file)


def _decode(record: Any, image_key: str) -> np.ndarray:
    from PIL import Image

    encoded = record.features.feature[image_key].bytes_list.value[0]
    image = np.asarray(Image.open(io.BytesIO(encoded)))
    return image if image.ndim == 3 else image[..., None]


def _records(builder: Any, split: str) -> Iterator[Any]:
    """The examples of a split as protocol buffers, in the order of the files."""
    from tensorflow_datasets.proto import tf_example_pb2

    info = builder.info.splits[split]
    read = (
        _read_tfrecord
        if str(info.filename_template.filetype_suffix) == "tfrecord"
        else _read_array_record
    )
    for path in info.filepaths:
        for raw in _complete(read, str(path)):
            yield tf_example_pb2.Example.FromString(raw)  # pyrefly: ignore[missing-attribute]


def _complete(read: Callable[[str], Iterator[bytes]], path: str) -> Iterator[bytes]:
    """The records of a file; a DataError that names it where it is missing or damaged."""
    try:
        yield from read(path)
    except (OSError, OverflowError, RuntimeError, struct.error) as error:
        raise DataError(
            f"{path} cannot be read ({_first_line(error)}): delete its folder and prepare it again"
        ) from error


def _read_array_record(path: str) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    yield from reader.read_all()
    reader.close()


def _read_tfrecord(path: str) -> Iterator[bytes]:
    """A record: its length (u64), its checksum (u32), the bytes, their checksum (u32)."""
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            data = file.read(length)
            if len(data) != length or len(file.read(4)) != 4:
                raise DataError(f"{path} is truncated: a record of {length} bytes is not complete")
            yield data


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    """Of all labels and 256 images spread over the set: quick, and different for different data."""
    spread = np.linspace(0, len(labels) - 1, 256).astype(int)
    return digest(images[np.unique(spread)].tobytes(), labels.tobytes())
