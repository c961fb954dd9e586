"""What can be wrong with a checkpoint, and how the system below says so."""

import errno
import re


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, is damaged, does not fit or cannot be written.

    The message names step and file or array, and what to do.
    """


class DamagedError(CheckpointError):
    """What a checkpoint holds is not what was saved."""


def system_reason(error: Exception) -> str | None:
    """What the operating system says, directly or through TensorStore; None: it is not that.

    A file that is not there is not the system's fault.
    """
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
        return error.strerror or str(error)
    found = re.search(r": ([^:\[]+) \[os_error_code='(\d+)'", str(error))
    return found[1] if found and int(found[2]) not in (errno.ENOENT, errno.ENOTDIR) else None


def reason(error: Exception) -> str:
    """The system's reason, or the beginning of what is said."""
    return system_reason(error) or str(error).strip().split("\n")[0][:200]
