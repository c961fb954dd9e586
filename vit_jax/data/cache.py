"""Decoded images kept for the streaming feed and for later runs, in the user's cache folder."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit_jax.data.encoded import FileSource, decode_all, sizes_and_times
from vit_jax.data.source import ArraySource, digest


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/vit_jax or ~/.cache/vit_jax; never beside the user's own files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_jax"


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when all is written: it is whole or not there."""
    # Hidden; and the ending stays, which tells some writers the format.
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def cached_on_disk(source: FileSource, skip_bad: bool) -> ArraySource:
    """The source decoded into one file, mapped into memory; decoded once for all runs.

    The file's name follows from the fingerprint and from when each image was last changed: other
    images, sizes or labels are another file.

    Raises:
      BadImageError: without `skip_bad`, where a file holds no picture.
    """
    changed = sizes_and_times(source.encoded)
    name = digest(source.fingerprint, source.pixels, digest(changed.tobytes()))
    file = cache_folder() / f"{name}.npy"
    notes = file.with_suffix(".json")
    shape = (len(source), *source.image_shape)
    try:
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        bad = {int(index): why for index, why in json.loads(notes.read_text()).items()}
        whole = images.shape == shape and images.dtype == source.dtype
    except (OSError, ValueError):
        whole, images, bad = False, None, {}  # not there yet, or damaged
    if images is None or not whole or (bad and not skip_bad):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            mapped = np.lib.format.open_memmap(temporary, "w+", source.dtype, shape)
            bad = dict(decode_all(source, skip_bad, out=mapped).bad)
            mapped.flush()
            del mapped
            notes.write_text(json.dumps(bad))
        images = np.load(file, mmap_mode="r", allow_pickle=False)
    names = [source.name(index) for index in range(len(source))]
    return ArraySource(images, source.labels, source.class_names, source.fingerprint, names, bad)
