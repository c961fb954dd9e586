"""Arrays mapped from files, which other processes map again instead of getting their contents."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.source import digest


class MappedArray(np.memmap):
    """A read-only array in a file; pickled, it is the file's name and the place in it.

    What is picked from it by a list of indices is a plain array.
    """

    _mmap: mmap.mmap | None
    """NumPy's own: the whole file's map; None for what does not lie in it."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, MappedArray) and found._mmap is None:
            return found.view(np.ndarray)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._mmap is None or not self.filename or not self.size or not self.flags.c_contiguous:
            return np.array(self, subok=False).__reduce_ex__(protocol)
        # A slice has the whole's `offset`; its own follows from where the map and it begin.
        begin = np.frombuffer(self._mmap, np.uint8).ctypes.data
        page = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        offset = page + self.ctypes.data - begin
        return map_array, (str(self.filename), self.dtype.str, self.shape, offset)


def map_array(
    path: str, dtype: str, shape: tuple[int, ...], offset: int, fortran: bool = False
) -> MappedArray:
    """Part of a file as a read-only array; `offset` in bytes."""
    order = "F" if fortran else "C"
    array = np.memmap(path, np.dtype(dtype), mode="r", offset=offset, shape=shape, order=order)
    return array.view(MappedArray)


def map_file(path: Path) -> MappedArray:
    """An .npy file as a read-only array.

    Raises:
      OSError, ValueError: there is none, or it is damaged.
    """
    return np.load(path, mmap_mode="r").view(MappedArray)


def array_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Of all labels and 256 images spread over the set: quick, and different for different data."""
    spread = np.linspace(0, len(labels) - 1, 256).astype(int)
    return digest(images[np.unique(spread)].tobytes(), labels.tobytes())
