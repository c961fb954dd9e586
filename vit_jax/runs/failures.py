"""What can be wrong with a checkpoint, and how the system below says so."""

import errno
import os


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, is damaged, does not fit or cannot be written.

    The message names step and file or array, and what to do.
    """


class DamagedError(CheckpointError):
    """What a checkpoint holds is not what was saved."""


SYSTEM = tuple(
    getattr(errno, name)
    for name in ("ENOSPC", "EFBIG", "EDQUOT", "EIO", "EROFS", "EACCES", "EPERM")
    if hasattr(errno, name)
)
"""Refusals of the operating system that say nothing about what is in a file."""


def system_reason(error: Exception) -> str | None:
    """What the operating system refuses, directly or through TensorStore; None: it is not that."""
    reasons = map(os.strerror, SYSTEM)
    return next((reason for reason in reasons if reason in str(error)), None)


def reason(error: Exception) -> str:
    """The system's reason, or the beginning of what is said."""
    return system_reason(error) or str(error).strip().split("\n")[0][:200]
