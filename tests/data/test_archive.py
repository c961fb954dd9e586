"""Archives: what is unpacked where, what is refused, and what a killed process leaves."""

import os
import socket
import subprocess
import sys
import tarfile

import pytest
from data.archives import SUFFIXES, contents, write

from vit_jax.data import archive as module
from vit_jax.data.archive import is_archive, unpacked
from vit_jax.data.source import DataError

FILES = {"train/a/1.png": b"one", "train/a/deep/2.png": b"two", "train/b/3.png": b"three" * 500}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that archives are unpacked in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vit_jax" / "archives"


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
