"""One run, one folder: a lock that ends with the process that holds it."""

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.runs.folder import RunError

FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """A context in which no other run can use the folder.

    The lock is the operating system's on the file `.lock`: a process that ends, in whatever way,
    gives it back, so none is left behind. The file says who holds it. On a file system without
    locks, what the file says has to do: a process that still lives on this machine holds it, and
    one of another machine, of which nothing can be told from here.

    Yields:
      who held it before and ended without giving it back, killed for instance; None: nobody.

    Raises:
      RunError: another process holds it; names its pid, its machine and when it started.
    """
    with _opened(folder / FILE) as file:
        before = _taken(folder, file)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        _write(file, {"pid": os.getpid(), "host": platform.node(), "start": now})
        try:
            yield _describe(before) if before else None
        finally:
            _write(file, {})


def refuse_if_locked(folder: Path) -> None:
    """Raise what `locked` would raise, and change nothing: before much else is done.

    Raises:
      RunError: another process holds the folder.
    """
    if (folder / FILE).exists():
        with _opened(folder / FILE) as file:
            _taken(folder, file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file's descriptor: Python's own files would write at their end what a full disk refused."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _taken(folder: Path, file: int) -> dict[str, Any]:
    """Take the lock, which ends with the file; returns what the file says of who held it before."""
    before = _read(folder / FILE)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder, before) from None
    except (ImportError, OSError):  # a system, or a file system, without such locks
        if _may_live(before):
            raise _in_use(folder, before) from None
    return before


def _in_use(folder: Path, holder: dict[str, Any]) -> RunError:
    elsewhere = holder.get("host") not in (None, platform.node())
    gone = f" If that run has ended for certain, remove {folder / FILE}" if elsewhere else ""
    return RunError(
        f"{folder} is in use by {_describe(holder)}: wait until that run has ended, stop it, or "
        f"choose another --workdir.{gone}"
    )


def _write(file: int, content: dict[str, object]) -> None:
    """What the file says is for people; that a full disk does not take it ends no run."""
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, (json.dumps(content) + "\n").encode(), 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    pid, host, start = (holder.get(name, "unknown") for name in ("pid", "host", "start"))
    return f"process {pid} on {host}, started {start}"


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether the process may still be there; of another machine's nothing is known."""
    if not isinstance(holder.get("pid"), int):
        return False
    if holder.get("host") != platform.node():
        return True
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
