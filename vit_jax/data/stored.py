"""Arrays in .npy and .npz files, described and checked before their elements are read."""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.source import DataError

DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and NumPy raise for damaged files."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file, of which only the description has been read."""

    file: Path
    key: str | None
    """Of the member of an .npz file; None: the file is an .npy file."""
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int
    """Where the elements begin, in bytes."""

    @property
    def name(self) -> str:
        """For messages."""
        return _name(self.file, self.key)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def keys_of(archive: Path) -> list[str]:
    """The names of the arrays in an .npz file; raises a DataError where it is damaged."""
    try:
        with zipfile.ZipFile(archive) as members:
            names = members.namelist()
    except DAMAGE as error:
        raise _damaged(str(archive), error) from error
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def describe(file: Path, key: str | None = None) -> Stored:
    """The description of an .npy file, or of an array in an .npz file.

    Raises:
      DataError: it is no array, one of Python objects, or not all there.
    """
    name = _name(file, key)
    try:
        with _opened(file, key) as (stream, size):
            start = stream.read(512)
            if not start.startswith(b"\x93NUMPY"):
                raise DataError(f"{name} is no array ({what_it_is(start)})")
            stream.seek(0)
            first = np.lib.format.read_magic(stream) == (1, 0)
            header = np.lib.format
            shape, fortran, dtype = (
                header.read_array_header_1_0(stream)
                if first
                else header.read_array_header_2_0(stream)
            )
            stored = Stored(file, key, shape, dtype, fortran, stream.tell())
    except DataError:
        raise
    except DAMAGE as error:
        raise _damaged(name, error) from error
    if dtype.hasobject:
        raise DataError(
            f"{name} holds Python objects, which are never loaded: save an array of numbers"
        )
    if min(shape, default=0) < 0 or stored.offset + stored.size > size:
        raise DataError(
            f"{name} is truncated: {size - stored.offset:,} of its {stored.size:,} bytes are there"
        )
    return stored


def read(stored: Stored) -> np.ndarray:
    """The array: of an .npy file mapped, of an .npz file in memory.

    Raises:
      DataError: it is larger than this machine's memory, or damaged.
    """
    if stored.key is None:
        if not stored.size:
            return np.zeros(stored.shape, stored.dtype)
        order = "F" if stored.fortran else "C"
        return np.memmap(stored.file, stored.dtype, "r", stored.offset, stored.shape, order)
    check_memory(stored)
    try:
        with _opened(stored.file, stored.key) as (stream, _):
            return np.lib.format.read_array(stream, allow_pickle=False)
    except DAMAGE as error:
        raise _damaged(stored.name, error) from error


def check_memory(stored: Stored) -> None:
    """Raise a DataError where an array is larger than this machine's memory."""
    if stored.size > _memory():
        raise DataError(
            f"{stored.name} takes {stored.size / 1e9:.1f} GB, but this machine has "
            f"{_memory() / 1e9:.1f} GB of memory: save uint8, uint16 or float32 as an .npy file, "
            "which is mapped"
        )


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def what_it_is(start: bytes) -> str:
    """What a file without arrays is, as far as its first bytes tell."""
    if not start:
        return "it is empty"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps a failed download"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer: fetch the file itself with `git lfs pull`"
    return f"it begins with {start[:8]!r}"


@contextlib.contextmanager
def _opened(file: Path, key: str | None) -> Iterator[tuple[Any, int]]:
    """A stream of an .npy file or of a member of an .npz file, and its size in bytes."""
    if key is None:
        with open(file, "rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
        return
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{key}.npy")
        # LZMA takes as much memory as its header asks for, and NumPy never packs so.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{_name(file, key)} is packed by method {member.compress_type} of the ZIP format, "
                "which NumPy does not write; unpack it and save it by numpy.savez"
            )
        with archive.open(member) as stream:
            yield stream, member.file_size


def _name(file: Path, key: str | None) -> str:
    return str(file) if key is None else f"{file}, key {key!r}"


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f"{name} cannot be read ({error}): it is damaged or truncated")
