"""What the compiler has made is kept for the next start; what runs once is compiled quickly."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

LARGEST_CACHE = 4_000_000_000
"""Bytes; beyond them what was not used for longest goes first."""


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
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = caches / "vit_jax" / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST_CACHE)
    return folder


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
