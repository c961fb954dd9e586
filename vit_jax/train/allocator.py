"""The C library's memory allocator, set up for a training on the CPU."""

import ctypes
import os
import sys
from pathlib import Path

# From glibc's malloc.h, see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory(device: str) -> bool:
    """Let the process keep what a training step frees, for the next one. True where it is done.

    A step on the CPU allocates and frees some hundred megabytes. By default glibc gives them back,
    and the kernel has to bring each page anew (docs/performance.md). With one arena, no mmap and no
    trimming nothing is given back; the process is as large as its largest step was, which it was
    before as well. Linux with glibc only, and not where a GPU does the computing.
    To be called before jax starts its threads, since a thread keeps the arena it began with.

    Args:
      device: as `Config.device`.
    """
    if sys.platform != "linux" or not _on_cpu(device):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl, for one, has none
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    done = [mallopt(name, value) == 1 for name, value in wanted]
    return all(done)


def _on_cpu(device: str) -> bool:
    """Whether the CPU will compute, as far as can be told before jax looks for devices."""
    if device == "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return device == "auto" and not Path("/proc/driver/nvidia/version").exists()
