"""Images and labels of TFDS data sets, read without TensorFlow.

A set of one image size is decoded once into two arrays, kept as .npy files beside the data (or,
where that folder cannot be written, in the user's cache folder), so later runs start at once. Sets
of other sizes are decoded as they are read.
"""

import difflib
import itertools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.cache import cache_folder, whole_file
from vit_jax.data.decode import opened
from vit_jax.data.encoded import FileSource, contents_digest, pixels_of
from vit_jax.data.source import (
    ArraySource,
    DataConfig,
    DataError,
    array_digest,
    declared_size,
    digest,
)
from vit_jax.data.splits import parse_split, usual_name
from vit_jax.data.tfds_records import (
    check_labels,
    description_digest,
    first_line,
    image_of,
    label_of,
    locate_records,
    read_examples,
    read_labels,
)

PART = 1024
"""Examples that are decoded in one go."""


def tfds_source(config: DataConfig, split: str) -> ArraySource | FileSource:
    """A whole split of the TFDS set that `config.name` means.

    Its images as arrays where they have the size asked for, or where none is; else its records,
    decoded and resized to `config.image_size` as they are read.

    Raises:
      DataError: see `tfds_arrays`; or a record cannot be read.
    """
    name = _set_name(config)
    size = declared_size(config)
    if size is None:
        return tfds_arrays(name, split, config.root)
    builder = _prepared_builder(name, config.root)
    image_key, label_key = _supervised_keys(builder)
    shape = builder.info.features[image_key].shape
    if None not in shape and size == tuple(shape[:2]):
        return tfds_arrays(name, split, config.root)
    split = _split_of(builder, split)
    train_split = _split_of(builder, parse_split(config.train_split)[0])
    records = locate_records(builder, split, image_key)
    labels = read_labels(builder, split, label_key)
    class_names = tuple(builder.info.features[label_key].names)
    pixels = pixels_of(config, locate_records(builder, train_split, image_key))
    contents = contents_digest(records)
    fingerprint = digest(builder.info.full_name, split, labels.tobytes(), contents, pixels)
    return FileSource(records, labels, class_names, fingerprint, pixels)


def tfds_splits(config: DataConfig) -> list[str]:
    """The splits of the TFDS set, by their usual names.

    Raises:
      DataError: TFDS knows no such set, or it is not on disk.
    """
    builder = _prepared_builder(_set_name(config), config.root)
    return [usual_name(split) for split in builder.info.splits]


def tfds_arrays(name: str, split: str, root: str | None) -> ArraySource:
    """A whole split of a TFDS set, every image decoded to uint8 [h, w, c].

    CIFAR-10 and CIFAR-100 are downloaded and prepared if they are not on disk yet.

    Raises:
      DataError: TFDS knows no such set, it is not on disk, it has no such split, it holds no image
        with one label, or its images differ in size.
    """
    builder = _prepared_builder(name, root)
    split = _split_of(builder, split)
    image_key, label_key = _supervised_keys(builder)
    images, labels = _decoded(builder, split, image_key, label_key)
    return ArraySource(
        images,
        labels,
        class_names=tuple(builder.info.features[label_key].names),
        fingerprint=digest(
            builder.info.full_name, split, images.shape, array_digest(images, labels)
        ),
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
        raise DataError(f"TFDS cannot open {name!r}: {first_line(error)}") from error
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
    dtype = np.dtype(features[image_key].np_dtype).name
    if dtype not in ("uint8", "uint16"):
        raise DataError(
            f"{builder.name} keeps {dtype} pixels as the bytes of other pictures: only uint8 and "
            "uint16 images can be read"
        )
    return image_key, label_key


def _set_name(config: DataConfig) -> str:
    return config.name.removeprefix("tfds:")


def _split_of(builder: Any, split: str) -> str:
    """The set's own name of a split: "validation" for "val"."""
    splits = list(builder.info.splits)
    if split in splits:
        return split
    for own in splits:
        if usual_name(own) == usual_name(split):
            return own
    there = ", ".join(map(repr, splits))
    raise DataError(f"split {split!r} of {builder.name}: there are {there}")


def _decoded(
    builder: Any, split: str, image_key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, h, w, c] and labels [n] of a split, from the cache or decoded into it."""
    folder = _decoded_folder(builder)
    files = folder / f"{split}-images.npy", folder / f"{split}-labels.npy"
    try:
        return _mapped(files[0]), np.load(files[1], allow_pickle=False)
    except (OSError, ValueError, EOFError):
        pass  # not there yet, or damaged: decoded below, and written anew
    with whole_file(files[0]) as temporary:
        labels = _decode_into(temporary, builder, split, image_key, label_key)
    with whole_file(files[1]) as temporary, open(temporary, "wb") as stream:
        np.save(stream, labels)
    return _mapped(files[0]), labels


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _decode_into(
    file: Path, builder: Any, split: str, image_key: str, label_key: str
) -> np.ndarray:
    """Write the images of a split to an .npy file, [n, h, w, c]; returns the labels [n]."""
    images, labels = None, []
    for example, image in _images(read_examples(builder, split), split, image_key):
        if images is None:
            shape = (builder.info.splits[split].num_examples, *image.shape)
            images = np.lib.format.open_memmap(file, "w+", image.dtype, shape)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise DataError(
                f"the images of {builder.name} differ in size or kind, such as {_words(images[0])} "
                f"and {_words(image)}: set data.image_size, to which all are resized"
            )
        images[len(labels)] = image
        labels.append(label_of(example, label_key))
    if images is None:
        raise DataError(f"split {split!r} of {builder.name} is empty")
    images.flush()
    return check_labels(builder, split, label_key, labels)


def _images(
    examples: Iterator[Any], split: str, image_key: str
) -> Iterator[tuple[Any, np.ndarray]]:
    """The examples, each with its decoded image; some at a time, in threads."""
    number = 0
    with ThreadPoolExecutor() as pool:
        while part := list(itertools.islice(examples, PART)):
            names = [f"{split}/{number + place:06d}" for place in range(len(part))]
            keys = itertools.repeat(image_key)
            yield from zip(part, pool.map(_decode, part, keys, names), strict=True)
            number += len(part)


def _words(image: np.ndarray) -> str:
    return f"{list(image.shape)} {image.dtype}"


def _decode(example: Any, image_key: str, name: str) -> np.ndarray:
    """The image as it is stored, [h, w, c]."""
    try:
        stream = image_of(example, image_key)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}") from error
    with opened(stream, name, DataConfig.max_pixels) as image:
        array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _decoded_folder(builder: Any) -> Path:
    beside = Path(builder.data_dir)
    # The mode bits as well, because root may write to a folder its owner has marked read-only.
    if os.access(beside, os.W_OK) and beside.stat().st_mode & stat.S_IWUSR:
        folder = beside / "vit_jax_decoded"
    else:
        folder = cache_folder() / description_digest(builder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
