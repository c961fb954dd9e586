"""The records of prepared TFDS sets, read without TensorFlow: in a row, or by their places.

Both of TFDS's common formats are read: array_record, which has an index, and tfrecord, which has
none.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import struct
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.cache import cache_folder, whole_file
from vit_jax.data.source import DataError, digest

PART = 256
"""Records of an array_record file that are read in one go."""


@dataclasses.dataclass(frozen=True)
class Records:
    """Encoded images in the records of a split; every process opens the files for itself."""

    files: tuple[str, ...]
    tfrecord: bool
    """Else array_record."""
    split: str
    image_key: str
    file: np.ndarray
    """int32 [n], places in `files`."""
    place: np.ndarray
    """int64 [n]: the record's number in its file; of a tfrecord its offset, in bytes."""
    number: np.ndarray
    """int32 [n], places in the split."""

    def __len__(self) -> int:
        return len(self.number)

    def name(self, index: int) -> str:
        """ "train/000123", of example 123."""
        return f"{self.split}/{self.number[index]:06d}"

    def open(self, index: int) -> BufferedIOBase:
        """Raises an OSError where the file or the record is damaged, or holds no image."""
        path, place = self.files[self.file[index]], int(self.place[index])
        try:
            raw = _tfrecord_at(path, place) if self.tfrecord else _reader(path).read([place])[0]
            return image_of(_parsed(raw), self.image_key)
        except OSError:
            raise
        except Exception as error:  # protobuf's and array_record's errors have no common base
            raise OSError(errno.EIO, f"{first_line(error)}; a record of {path}") from error

    def take(self, indices: np.ndarray) -> "Records":
        picked = {key: getattr(self, key)[indices] for key in ("file", "place", "number")}
        return dataclasses.replace(self, **picked)


def locate_records(builder: Any, split: str, image_key: str) -> Records:
    """The records of a split by their places, without reading them.

    The offsets of tfrecord files follow from the lengths alone; found once, they are kept in the
    user's cache folder.

    Raises:
      DataError: a file is missing or damaged, or holds more or fewer examples than it should.
    """
    info = builder.info.splits[split]
    files = tuple(str(path) for path in info.filepaths)
    lengths = info.shard_lengths
    tfrecord = _is_tfrecord(builder, split)

    def places() -> np.ndarray:
        found = [_offsets(path, length) for path, length in zip(files, lengths, strict=True)]
        return np.concatenate(found)

    if tfrecord:
        place = _kept(builder, f"{split}-offsets", info.num_examples, places)
    else:
        place = np.concatenate([np.arange(length) for length in lengths])
    file = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
    number = np.arange(len(place), dtype=np.int32)
    return Records(files, tfrecord, split, image_key, file, place, number)


def read_labels(builder: Any, split: str, label_key: str) -> np.ndarray:
    """int32 [n], as the records say; read once, and kept in the user's cache folder.

    Raises:
      DataError: a file is missing or damaged, or an example has no label, or one of no class.
    """
    info = builder.info.splits[split]

    def labels() -> np.ndarray:
        print(
            f"Reading the labels of {builder.info.full_name}, {split}: all {info.num_examples:,} "
            "records, once",
            flush=True,
        )
        found = [label_of(example, label_key) for example in read_examples(builder, split)]
        return check_labels(builder, split, label_key, found)

    return _kept(builder, f"{split}-{label_key}", info.num_examples, labels)


def read_examples(builder: Any, split: str) -> Iterator[Any]:
    """The examples of a split as protocol buffers, in the order of the files.

    Raises:
      DataError: a file is missing or damaged, or holds more or fewer examples than it should.
    """
    info = builder.info.splits[split]
    read = _read_tfrecord if _is_tfrecord(builder, split) else _read_array_record
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        count = 0
        with _damage_named(str(path)):
            for raw in read(str(path)):
                count += 1
                if count > length:
                    break
                yield _parsed(raw)
        _check_count(str(path), count, length)


def image_of(example: Any, key: str) -> BufferedIOBase:
    """The encoded image of an example; raises an OSError where there is none."""
    values = example.features.feature[key].bytes_list.value
    if not values:
        raise OSError(errno.ENODATA, f"the record holds no {key!r}")
    return BytesIO(values[0])


def label_of(example: Any, key: str) -> int:
    """The label of an example; -1, which is no label, where there is none."""
    values = example.features.feature[key].int64_list.value
    return values[0] if values else -1


def check_labels(builder: Any, split: str, label_key: str, labels: list[int]) -> np.ndarray:
    """int32 [n]; raises a DataError unless all are labels of the set's classes."""
    classes = builder.info.features[label_key].num_classes
    if not all(0 <= label < classes for label in labels):
        raise DataError(
            f"split {split!r} of {builder.name} has labels outside 0..{classes - 1}, as splits "
            "without labels do: choose another split"
        )
    return np.array(labels, np.int32)


def description_digest(builder: Any) -> str:
    """Of a prepared set's folder; one prepared anew there is at least younger."""
    folder = Path(builder.data_dir)
    info = folder / "dataset_info.json"
    return digest(str(folder.resolve()), info.read_text(), info.stat().st_mtime_ns)


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _kept(builder: Any, name: str, length: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array [length] from the user's cache folder, else made and kept there."""
    file = cache_folder() / description_digest(builder) / f"{name}.npy"
    try:
        array = np.load(file, allow_pickle=False)
        if array.shape == (length,):
            return array
    except (OSError, ValueError, EOFError):
        pass  # not there yet, or damaged
    array = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    except OSError as error:
        print(f"{file} cannot be written ({error.strerror}): it is made again the next time")
    return array


def _is_tfrecord(builder: Any, split: str) -> bool:
    suffix = str(builder.info.splits[split].filename_template.filetype_suffix)
    if suffix not in ("tfrecord", "array_record"):
        raise DataError(
            f"{builder.data_dir} holds {suffix} files, which cannot be read: prepare the set with "
            "--file_format=array_record"
        )
    return suffix == "tfrecord"


def _parsed(raw: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return tf_example_pb2.Example.FromString(raw)  # pyrefly: ignore[missing-attribute]
    except DecodeError as error:
        raise OSError(errno.EIO, f"the record is damaged ({first_line(error)})") from error


@contextlib.contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """What the readers raise for a missing or damaged file becomes a DataError that names it."""
    try:
        yield
    except (OSError, OverflowError, RuntimeError, struct.error) as error:
        raise DataError(
            f"{path} cannot be read ({first_line(error)}): delete its folder and prepare it again"
        ) from error


def _check_count(path: str, count: int, length: int) -> None:
    if count != length:
        found = f"{count} examples" + " or more" * (count > length)
        raise DataError(
            f"{path} holds {found}, but its dataset_info.json says {length}: delete the "
            "folder and prepare it again"
        )


def _read_array_record(path: str) -> Iterator[bytes]:
    reader = _new_reader(path)
    count = reader.num_records()
    for start in range(0, count, PART):
        yield from reader.read(start, min(start + PART, count))
    reader.close()


@functools.lru_cache(maxsize=512)  # open files; a process may have 1,024 on many systems
def _reader(path: str) -> Any:
    """A reader of this process, which its threads share: `read` keeps no position."""
    return _new_reader(path)


def _new_reader(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    # Reading ahead is of no use to random access, and takes 16 MB a file.
    return ArrayRecordReader(path, options="readahead_buffer_size:0")


def _read_tfrecord(path: str) -> Iterator[bytes]:
    """A record: its length (u64), its checksum (u32), the bytes, their checksum (u32)."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            data = file.read(min(length, size))  # a damaged length could ask for any memory
            if len(data) != length or len(file.read(4)) != 4:
                raise _truncated(path, length)
            yield data


def _offsets(path: str, expected: int) -> np.ndarray:
    """int64 [expected], where the bytes of a tfrecord file's records begin."""
    offsets = []
    with _damage_named(path), open(path, "rb", buffering=0) as file:
        size, place = os.fstat(file.fileno()).st_size, 0
        while place < size:
            file.seek(place)
            (length,) = struct.unpack("<Q", file.read(12)[:8])
            offsets.append(place + 12)
            place += 12 + length + 4
            if place > size:
                raise _truncated(path, length)
    _check_count(path, len(offsets), expected)
    return np.array(offsets, np.int64)


def _tfrecord_at(path: str, offset: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset - 12)
        (length,) = struct.unpack("<Q", file.read(12)[:8])
        data = file.read(min(length, os.fstat(file.fileno()).st_size))
    if len(data) != length:
        raise OSError(errno.EIO, f"a record of {length} bytes is not complete, in {path}")
    return data


def _truncated(path: str, length: int) -> DataError:
    return DataError(f"{path} is truncated: a record of {length} bytes is not complete")
