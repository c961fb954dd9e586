"""What the compiler has made is kept for the next start; what runs once is compiled quickly."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

LARGEST_CACHE = 4_000_000_000
"""Bytes that are kept at a start; beyond them what is oldest goes."""


def keep_compiled() -> Path | None:
    """Keep compiled programs in the user's cache folder, from which the next start takes them.

    Does nothing where JAX_COMPILATION_CACHE_DIR says where, where JAX_ENABLE_COMPILATION_CACHE says
    not to, and where the folder cannot be written.

    Returns:
      the folder; None: nothing was done.
    """
    settings: Any = jax.config  # whose options jax adds as it is imported
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return None
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = caches / "vit_jax" / "compiled" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _prune(folder: Path) -> None:
    """Remove the oldest beyond `LARGEST_CACHE`, and what a process was killed in writing.

    JAX could keep to a size itself, but such a process then spoils the cache; and without that it
    would warn of the file at every start, and never write it again.
    """
    looked = folder / "looked_at"
    since = looked.stat().st_mtime_ns if looked.exists() else 0
    looked.touch()
    room = LARGEST_CACHE
    files = [(path, path.stat()) for path in folder.glob("*-cache")]
    for path, found in sorted(files, key=lambda file: file[1].st_mtime_ns, reverse=True):
        room -= found.st_size
        if room < 0 or (found.st_mtime_ns >= since and not _is_whole(path)):
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Whether a file that JAX has compressed can be read to its end."""
    try:
        from jax._src.compilation_cache import decompress_executable  # no public name
    except ImportError:
        return True
    try:
        decompress_executable(path.read_bytes())
    except Exception:  # of three libraries, whichever jax has found
        return False
    return True


def quickly(device: jax.Device) -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for what runs once: compiling takes longer than it saves."""
    # Of LLVM, which on a GPU does a small part of the work.
    return {"xla_backend_optimization_level": 0} if device.platform == "cpu" else None


def _processor() -> str:
    """A name for this machine's instructions: a home folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
