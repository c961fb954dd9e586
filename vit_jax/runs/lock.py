"""One run, one folder: a lock that ends with the process that holds it."""

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vit_jax.runs.folder import RunError

FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """A context in which no other run can use the folder.

    The lock is the operating system's on the file `.lock`: a process that ends, in whatever way,
    gives it back, so none is left behind. The file says who holds it. On a file system without
    locks, what the file says has to do: a process that still lives on this machine holds it.

    Yields:
      who held it before and ended without giving it back, killed for instance; None: nobody.

    Raises:
      RunError: another process holds it; names its pid, its machine and when it started.
    """
    with open(folder / FILE, "a+") as file:
        before = _read(folder / FILE)
        if not _take(file, before):
            raise RunError(
                f"{folder} is in use by {_describe(before)}: wait until that run has ended, stop "
                "it, or choose another --workdir"
            )
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        _write(file, {"pid": os.getpid(), "host": platform.node(), "start": now})
        try:
            yield _describe(before) if before else None
        finally:
            with contextlib.suppress(OSError):  # a full disk
                _write(file, {})


def _take(file: TextIO, holder: dict[str, Any]) -> bool:
    """Whether the lock could be had; it ends with the file."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system, or a file system, without such locks
        return not _lives(holder)
    return True


def _write(file: TextIO, content: dict[str, object]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(content) + "\n")
    file.flush()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    pid, host, start = (holder.get(name, "unknown") for name in ("pid", "host", "start"))
    return f"process {pid} on {host}, started {start}"


def _lives(holder: dict[str, Any]) -> bool:
    if holder.get("host") != platform.node() or not isinstance(holder.get("pid"), int):
        return False
    if holder["pid"] == os.getpid():
        return False  # a container's processes have the same numbers at every start
    if os.name != "posix":
        return False  # elsewhere os.kill ends the process, whatever the signal
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        pass
    return True
