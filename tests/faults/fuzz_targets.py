"""What is fuzzed: a function for each kind of file, from the bytes of the file.

It may raise our own error alone, in a message that names the file. Anything else is a finding:
another error, a warning, more than `SECONDS` or `MEMORY`.
"""

import contextlib
import io
import os
import resource
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.sound_files import pictures, weights_folder

SECONDS = 5
"""For one file."""
MEMORY = 2**30
"""Bytes beyond those of the process, for one file."""


class ReaderError(AssertionError):
    """A reader that did what it must not."""


class _TookTooLong(BaseException):
    """Not an Exception: a reader that catches those would hide it."""


@contextlib.contextmanager
def only(error_type: type[Exception], mention: str) -> Iterator[None]:
    """Let pass our own error, if it mentions the file, and nothing else.

    Raises:
      ReaderError: it took too long or too much memory, warned, or did not name the file.
      Exception: whatever else was raised inside.
    """
    try:
        with _limits(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except _TookTooLong as error:
        raise ReaderError(f"more than {SECONDS} s") from error
    except error_type as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise ReaderError(f"more than {MEMORY:,} bytes") from error
            cause = cause.__cause__
        if mention not in str(error):
            raise ReaderError(f"the message does not say {mention}: {error}") from error
    # Pillow warns of broken EXIF and the like in pictures whose pixels are sound.
    theirs = f"{os.sep}PIL{os.sep}"
    ours = [warning for warning in caught if theirs not in warning.filename]
    if ours:
        raise ReaderError(f"a warning: {ours[0].category.__name__}: {ours[0].message}")


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals reach the main thread alone")

    def ring(number: int, frame: object) -> None:
        raise _TookTooLong

    handler = signal.signal(signal.SIGALRM, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _as_file(name: str, content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def safetensors(content: bytes) -> None:
    """Published weights in one .safetensors, the arrays and the architecture."""
    with _as_file("model.safetensors", content) as path:
        _weights(path)


def npz(content: bytes) -> None:
    """Published weights in one .npz."""
    with _as_file("weights.npz", content) as path:
        _weights(path)


def description(content: bytes) -> None:
    """config.json and preprocessor_config.json beside sound weights of Hugging Face and timm."""

    from vit_jax.weights import WeightsError
    from vit_jax.weights.pretrained import open_pretrained

    for layout, name in weights_folder():
        with _as_file(name, content) as path:
            for sound in weights_folder()[layout, name].iterdir():
                if sound.name != name:
                    (path.parent / sound.name).symlink_to(sound)
            with only(WeightsError, str(path.parent)):
                open_pretrained(path.parent).read()


def _weights(path: Path) -> None:
    from vit_jax.weights import WeightsError
    from vit_jax.weights.files import open_tensors
    from vit_jax.weights.pretrained import open_pretrained

    with only(WeightsError, str(path)):
        found = open_tensors(path)
        for name, shape in found.shapes.items():
            if found.read(name).shape != shape:
                raise ReaderError(f"{name} was to be of shape {shape}")
    with only(WeightsError, str(path.parent)):
        open_pretrained(path).read()


def config(content: bytes) -> None:
    """A run's config.json."""
    from vit_jax.config import ConfigError, check_ranges, from_json, load_config, resolve_length

    with _as_file("config.json", content) as path, only(ConfigError, str(path)):
        load_config(path)
    with contextlib.suppress(UnicodeDecodeError), only(ConfigError, ""):
        found = from_json(content.decode())
        resolve_length(found)
        check_ranges(found)


def table(content: bytes) -> None:
    """A table of paths and labels, of each of the three kinds."""

    from vit_jax.data.source import DataConfig, DataError
    from vit_jax.data.table import SUFFIXES, table_source, table_splits

    for suffix in SUFFIXES:
        with _as_file(f"table{suffix}", content) as path:
            (path.parent / "a.png").write_bytes(pictures()["PNG L"])
            (path.parent / "b.png").write_bytes(pictures()["PNG RGB"])
            for on_bad_image in ("error", "skip"):
                with only(DataError, str(path.parent)):
                    config = DataConfig(
                        name="csv", root=str(path), image_size=4, on_bad_image=on_bad_image
                    )
                    table_splits(config)
                    source = table_source(config, "train")
                    for index in range(min(3, len(source))):
                        source[index]


def image(content: bytes) -> None:
    """A picture, to every kind of pixels."""
    from vit_jax.data.decode import Pixels, decode
    from vit_jax.data.source import DataError

    kinds = [(3, "uint8", False), (1, "uint8", False), (1, "uint8", True)]
    for channels, dtype, grey in [*kinds, (1, "uint16", True), (1, "float32", True)]:
        pixels = Pixels(4, 6, channels, dtype, found_grey=grey, max_pixels=1_000_000)
        with only(DataError, "the picture"):
            found = decode(io.BytesIO(content), "the picture", pixels)
            if (found.shape, found.dtype) != ((4, 6, channels), dtype):
                raise ReaderError(f"{found.dtype} {found.shape}")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (safetensors, npz, description, config, table, image)
}
