"""Archives of images, unpacked once into the user's cache folder; nothing is written elsewhere."""

import contextlib
import gzip
import lzma
import os
import shutil
import socket
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from vit_jax.data.cache import cache_folder
from vit_jax.data.source import DataError, digest

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
BOMB_BYTES = 10**9
"""Unpacked size above which an archive may not grow by more than `BOMB_RATIO`."""
BOMB_RATIO = 200
"""Unpacked to packed size. Pictures hardly shrink in an archive, so this is never meant."""
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(gzip.BadGzipFile, EOFError, NotImplementedError),
)
"""What the standard library raises for archives that are cut short, or none at all."""


def is_archive(path: Path) -> bool:
    """Whether this is a file with the name of an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(path: Path) -> Path:
    """The folder with an archive's contents: its only top folder where there is one.

    It lies in the user's cache folder under a name that follows from the archive's name, size, time
    and ends, and gets that name once it is whole. Members whose names lead out of the folder, links
    that do, and symbolic links are refused before anything is written.

    Raises:
      DataError: the archive cannot be read, is refused, or is too large for the disk.
    """
    archives = cache_folder() / "archives"
    try:
        folder = archives / _digest(path)
        if not folder.is_dir():
            archives.mkdir(parents=True, exist_ok=True)
            _remove_leavings(archives)
            _unpack(path, folder)
    except DAMAGED as error:
        raise DataError(
            f"{path} cannot be unpacked ({error}): it is damaged, or no archive of the kind its "
            f"name says; it has {path.stat().st_size:,} bytes"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked in {archives}: {error}") from error
    entries = [entry for entry in folder.iterdir() if not _is_leaving(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _digest(path: Path) -> str:
    """Of what changes whenever the archive does, without reading all of it."""
    facts = path.stat()
    with path.open("rb") as file:
        ends = [file.read(2**20)]
        file.seek(max(0, facts.st_size - 2**20))
        ends.append(file.read(2**20))
    return digest(path.name, facts.st_size, facts.st_mtime_ns, *ends)


def _unpack(path: Path, folder: Path) -> None:
    """Unpack under another name, which becomes `folder` when all is there."""
    temporary = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
    try:
        if path.name.lower().endswith(".zip"):
            _unpack_zip(path, temporary)
        else:
            _unpack_tar(path, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_tar(path: Path, folder: Path) -> None:
    if path.name.lower().endswith(".zst") and "zst" not in tarfile.TarFile.OPEN_METH:
        raise DataError(
            f"{path}: Zstandard needs Python 3.14 or later; unpack it yourself, as by `tar --zstd "
            "-xf`, and name the folder"
        )
    with tarfile.open(path) as tar:
        _check_sizes(path, folder, (_checked(path, member).size for member in tar))
    # Read twice, so that nothing is written of an archive whose last member is refused.
    with tarfile.open(path) as tar:
        folder.mkdir()
        for member in tar:
            with _refusals(path, member.name):
                tar.extract(member, folder, filter="data")


def _checked(path: Path, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member, where it is a file, a folder or a hard link, inside the archive."""
    with _refusals(path, member.name):
        _check_name(member.name)
        if member.islnk():
            _check_name(member.linkname)
        # Python's own filter for links inside has had holes (CVE-2025-4517): they are refused.
        elif not (member.isfile() or member.isdir()):
            raise _RefusedError(_kind(member))
    return member


def _kind(member: tarfile.TarInfo) -> str:
    return f"is a symbolic link to {member.linkname!r}" if member.issym() else "is a device"


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            with _refusals(path, member.filename):
                _check_name(member.filename)
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    link = kind == stat.S_IFLNK
                    raise _RefusedError("is a symbolic link" if link else "is a device")
                if member.flag_bits & 1:
                    raise _RefusedError("is encrypted")
                # It takes as much memory as its header asks for.
                if member.compress_type == zipfile.ZIP_LZMA:
                    raise _RefusedError("is packed by LZMA")
        _check_sizes(path, folder, (member.file_size for member in members))
        folder.mkdir()
        for member in members:
            # Old programs for Windows write its separators.
            target = folder / member.filename.replace("\\", "/")
            if member.filename.endswith(("/", "\\")):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # Python stops at the size the member claims, and compares its checksum.
            with archive.open(member) as file, target.open("wb") as out:
                shutil.copyfileobj(file, out)


class _RefusedError(Exception):
    """Why a member is not unpacked, as the end of a sentence that begins with its name."""


@contextlib.contextmanager
def _refusals(path: Path, member: str) -> Iterator[None]:
    try:
        yield
    except (_RefusedError, tarfile.FilterError) as error:
        raise DataError(
            f"{path} is refused: its member {member!r} {error}. Nothing was unpacked; if you trust "
            "it, unpack it yourself and name the folder"
        ) from error


def _check_name(name: str) -> None:
    """Refuse a name that leads out of the folder on any operating system."""
    windows, parts = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or windows.drive:
        raise _RefusedError("is an absolute path")
    if ".." in parts or "\0" in name:
        raise _RefusedError("would be written outside the folder it is unpacked to")


def _check_sizes(path: Path, folder: Path, sizes: Iterable[int]) -> None:
    """Refuse, as soon as the running total shows it, what no disk holds or no pictures need."""
    packed, free, total = path.stat().st_size, shutil.disk_usage(folder.parent).free, 0
    for size in sizes:
        total += size
        if total > max(BOMB_BYTES, BOMB_RATIO * packed):
            raise DataError(
                f"{path} is refused: of {packed:,} bytes it would become more than {total:,}, over "
                f"{BOMB_RATIO} times as many, as only archives made to fill a disk do"
            )
        if total > free:
            raise DataError(
                f"{path} cannot be unpacked: it holds at least {total / 1e9:,.1f} GB, and "
                f"{folder.parent} has {free / 1e9:,.1f} GB free; set XDG_CACHE_HOME to a folder on "
                "a larger disk"
            )


def _remove_leavings(archives: Path) -> None:
    """Remove what unpacking processes of this machine left behind when they were killed."""
    host = socket.gethostname()
    for folder in archives.glob(f"*.{host}.*.tmp"):
        pid = int(folder.name.split(".")[-2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            continue  # it runs, as another user


def _is_leaving(name: str) -> bool:
    """What an operating system adds to an archive."""
    return name.startswith(".") or name.lower() == "__macosx"
