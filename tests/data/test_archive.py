"""Archives: what is unpacked where, what is refused, and what a killed process leaves."""

import io
import os
import socket
import stat
import subprocess
import sys
import tarfile
import zipfile

import pytest

from vit_jax.data import archive as module
from vit_jax.data.archive import is_archive, unpacked
from vit_jax.data.source import DataError

FILES = {"train/a/1.png": b"one", "train/a/deep/2.png": b"two", "train/b/3.png": b"three" * 500}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = [".zip", *TARS]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that archives are unpacked in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vit_jax" / "archives"


def write(path, files):
    """An archive of these contents by name; the suffix tells its kind. Links are `(target,)`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                member = zipfile.ZipInfo(name)
                if isinstance(content, tuple):
                    member.external_attr = (stat.S_IFLNK | 0o777) << 16
                    content = content[0].encode()
                archive.writestr(member, content, zipfile.ZIP_DEFLATED)
        return path
    mode = next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = tarfile.SYMTYPE, content[0]
                archive.addfile(member)
            elif isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_contents_lie_in_the_cache_and_are_unpacked_once(suffix, tmp_path, cache):
    path = write(tmp_path / f"Images{suffix}", {"readme": b"", **FILES})
    before, facts = path.read_bytes(), path.stat()
    folder = unpacked(path)
    assert folder.parent == cache
    assert contents(folder) == {"readme": b"", **FILES}
    assert [entry.name for entry in cache.iterdir()] == [folder.name]
    number = folder.stat().st_ino
    assert (unpacked(path), folder.stat().st_ino) == (folder, number)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, facts.st_mtime_ns)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_only_top_folder_is_the_root(suffix, tmp_path, cache):
    leavings = {"__MACOSX/._x": b"", ".DS_Store": b""}
    files = {f"./set/{name}": content for name, content in FILES.items()}
    folder = unpacked(write(tmp_path / f"a{suffix}", files | leavings))
    assert folder.parent.parent == cache
    assert folder.name == "set"
    assert contents(folder) == FILES


def test_another_content_time_or_name_is_unpacked_anew(tmp_path, cache):
    path = write(tmp_path / "a.zip", {"x": b"1", "y": b"1"})
    os.utime(path, ns=(10**18, 10**18))
    folders = {unpacked(path)}
    write(path, {"x": b"2", "y": b"1"})  # of the same size
    os.utime(path, ns=(10**18, 10**18))
    folders.add(unpacked(path))
    os.utime(path, ns=(10**18, 10**18 + 1))
    folders.add(unpacked(path))
    folders.add(unpacked(path.rename(tmp_path / "b.zip")))
    assert len(folders) == 4
    assert sorted((folder / "x").read_bytes() for folder in folders) == [b"1", b"2", b"2", b"2"]


def test_names_tell_what_is_an_archive(tmp_path):
    for name in ("a.zip", "A.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.zst"):
        (tmp_path / name).touch()
        assert is_archive(tmp_path / name)
    (tmp_path / "folder.zip").mkdir()
    for name in ("folder.zip", "none.zip", "a.png"):
        assert not is_archive(tmp_path / name)


def test_separators_of_windows_are_separators(tmp_path, cache):
    path = write(tmp_path / "a.zip", {"train\\a\\1.png": b"1", "b.txt": b""})
    assert contents(unpacked(path)) == {"train/a/1.png": b"1", "b.txt": b""}


EVIL = {
    "parent": ("../evil.txt", b"evil", "would be written outside"),
    "windows-parent": ("a\\..\\..\\evil.txt", b"evil", "would be written outside"),
    "absolute": ("{outside}/evil.txt", b"evil", "is an absolute path"),
    "drive": ("C:/evil.txt", b"evil", "is an absolute path"),
    "share": ("\\\\host\\share\\evil.txt", b"evil", "is an absolute path"),
    "link-out": ("link", ("{outside}",), "is a symbolic link"),
    "link-within": ("link", ("a",), "is a symbolic link"),
}


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_d19_members_that_lead_outside_are_refused(evil, suffix, tmp_path, cache):
    outside = tmp_path / "outside"
    outside.mkdir()
    name, content, reason = EVIL[evil]
    name = name.format(outside=outside)
    files = {"a/fine.txt": b"fine", name: content}
    if isinstance(content, tuple):
        files[name] = (content[0].format(outside=outside),)
        files[f"{name}/evil.txt"] = b"evil"  # through the link
    path = write(tmp_path / f"archive{suffix}", files)
    with pytest.raises(DataError, match=reason) as error:
        unpacked(path)
    assert str(error.value).startswith(f"{path} is refused: its member {name!r} ")
    # Neither the evil member nor the one before it was written, anywhere.
    assert list(outside.iterdir()) == []
    assert [entry for entry in tmp_path.rglob("*") if entry.name in ("evil.txt", "fine.txt")] == []
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        (tarfile.LNKTYPE, "../../secret", "would be written outside"),
        (tarfile.LNKTYPE, "/etc/hostname", "is an absolute path"),
        (tarfile.FIFOTYPE, "", "is a device"),
        (tarfile.CHRTYPE, "", "is a device"),
    ],
)
def test_d19_hard_links_outside_and_devices_are_refused(kind, target, reason, tmp_path, cache):
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    path = write(tmp_path / "archive.tar", {"fine.txt": b"fine", "evil": member})
    with pytest.raises(DataError, match=rf"archive\.tar is refused: its member 'evil' {reason}"):
        unpacked(path)
    assert list(cache.iterdir()) == []


def test_hard_links_inside_are_files(tmp_path, cache):
    member = tarfile.TarInfo()
    member.type, member.linkname = tarfile.LNKTYPE, "a/1.png"
    folder = unpacked(write(tmp_path / "a.tar", {"a/1.png": b"one", "b/1.png": member}))
    assert contents(folder) == {"a/1.png": b"one", "b/1.png": b"one"}


def test_an_encrypted_member_is_refused(tmp_path, cache):
    path = write(tmp_path / "a.zip", {"x": b"1"})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="member 'x' is encrypted"):
        unpacked(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_bombs_are_refused_before_anything_is_written(suffix, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "BOMB_BYTES", 3_000_000)
    files = {f"{number}": b"\0" * 1_000_001 for number in range(3)}
    path = write(tmp_path / f"a{suffix}", files)
    packed = path.stat().st_size
    assert 200 * packed < 3_000_003
    message = rf"of {packed:,} bytes it would become more than 3,000,003, over 200 times"
    with pytest.raises(DataError, match=message):
        unpacked(path)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(module, "BOMB_BYTES", 3_000_003)
    assert len(contents(unpacked(path))) == 3


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_what_no_disk_holds_is_not_begun(suffix, tmp_path, cache, monkeypatch):
    path = write(tmp_path / f"a{suffix}", {"x": b"x" * 600, "y": b"y" * 500})
    usage = module.shutil.disk_usage(tmp_path)
    for free, fits in ((1099, False), (1100, True)):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, f=free: usage._replace(free=f))
        if fits:
            assert len(contents(unpacked(path))) == 2
            continue
        with pytest.raises(DataError, match=r"has 0\.0 GB free; set XDG_CACHE_HOME"):
            unpacked(path)
        assert list(cache.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["empty", "html", "half"])
def test_a_damaged_archive_is_named_and_nothing_stays(damage, suffix, tmp_path, cache):
    path = write(tmp_path / f"a{suffix}", {"x": os.urandom(30_000), "y": os.urandom(30_000)})
    whole = path.read_bytes()
    half = whole[: len(whole) // 4]
    path.write_bytes({"empty": b"", "html": b"<html>404</html>", "half": half}[damage])
    with pytest.raises(DataError, match=r"damaged, or no archive .*; it has [\d,]+ bytes") as error:
        unpacked(path)
    assert str(error.value).startswith(f"{path} cannot be unpacked (")
    assert list(cache.iterdir()) == []


def test_a_changed_byte_in_a_zip_is_found(tmp_path, cache):
    path = write(tmp_path / "a.zip", {"x": os.urandom(3000)})
    raw = path.read_bytes()
    path.write_bytes(raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:])
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked \(.*damaged"):
        unpacked(path)


@pytest.mark.skipif("zst" in tarfile.TarFile.OPEN_METH, reason="this Python reads Zstandard")
def test_zstandard_needs_a_python_that_has_it(tmp_path, cache):
    (tmp_path / "a.tar.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(DataError, match=r"needs Python 3\.14 or later; unpack it yourself"):
        unpacked(tmp_path / "a.tar.zst")


UNPACK = """
import pathlib, shutil, sys, time
from vit_jax.data import archive
def half(source, target):
    target.write(source.read(5))
    target.flush()
    print("half", flush=True)
    time.sleep(60)
shutil.copyfileobj = half
archive.unpacked(pathlib.Path(sys.argv[1]))
"""


def test_d18_a_killed_unpack_is_never_used_and_cleared_away(tmp_path, cache):
    files = {"x": b"first of two", "y": b"second of two"}
    path = write(tmp_path / "a.zip", files)
    process = subprocess.Popen([sys.executable, "-c", UNPACK, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.kill()
    process.wait()
    process.stdout.close()
    (half,) = cache.iterdir()
    assert contents(half) == {"x": b"first"}
    folder = unpacked(path)
    assert contents(folder) == files
    assert list(cache.iterdir()) == [folder]


def test_only_the_dead_are_cleared_away(tmp_path, cache):
    host = socket.gethostname()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    cache.mkdir(parents=True)
    living, elsewhere = cache / f"x.{host}.{process.pid}.tmp", cache / "x.elsewhere.1.tmp"
    living.mkdir()
    elsewhere.mkdir()
    try:
        unpacked(write(tmp_path / "a.zip", {"x": b"", "y": b""}))
        assert living.is_dir()
    finally:
        process.kill()
        process.wait()
    unpacked(write(tmp_path / "b.zip", {"x": b"", "y": b""}))
    assert not living.exists()
    assert elsewhere.is_dir()


def test_who_comes_second_takes_what_the_first_has_unpacked(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.zip", {"x": b"mine", "y": b""})
    theirs = cache / module._digest(path)
    rename = module.Path.rename

    def late(temporary, folder):
        assert folder == theirs
        theirs.mkdir()
        (theirs / "x").write_bytes(b"theirs")
        (theirs / "y").write_bytes(b"")
        return rename(temporary, folder)

    monkeypatch.setattr(module.Path, "rename", late)
    assert unpacked(path) == theirs
    assert contents(theirs) == {"x": b"theirs", "y": b""}
    assert list(cache.iterdir()) == [theirs]
