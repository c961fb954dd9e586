"""Downloads and archives that go wrong, rows D17 to D19 of the table of faults."""

import contextlib
import hashlib
import http.server
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.archives import contents, write
from data.small_cifar import prepare_small, small_cifar10

from vit_jax.cli import main
from vit_jax.data.archive import unpacked
from vit_jax.data.source import DataError


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A small CIFAR-10, prepared."""
    return prepare_small("cifar10", small_cifar10, tmp_path_factory.mktemp("cifar10"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that archives are unpacked in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vit_jax" / "archives"


class Host(http.server.ThreadingHTTPServer):
    """Serves one archive; holds back what comes after `gap` bytes until it may go on."""

    daemon_threads = True

    def __init__(self, content, gap=None):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.gap, self.requests = content, gap, []
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-binary.tar.gz"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self):
        self.server.requests.append(dict(self.headers))
        self.do_HEAD()
        gap = self.server.gap or len(self.server.content)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(self.server.content[:gap])
            self.wfile.flush()
            if gap < len(self.server.content):
                self.server.go_on.wait(60)
            self.wfile.write(self.server.content[gap:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    hosts = []

    def start(content, gap=None):
        hosts.append(Host(content, gap))
        threading.Thread(target=hosts[-1].serve_forever, daemon=True).start()
        return hosts[-1]

    yield start
    for host in hosts:
        host.go_on.set()
        host.shutdown()
        host.server_close()


# Another address and checksum than the published: for this process, and as a program of its own.
PREPARE = """
import pathlib, sys
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.utils import Size
from vit_jax.data import prepare_cifar as module

def prepare(url, sha256, size, folder):
    original = module._builder_without_tensorflow
    def builder_of(name, folder):
        builder = original(name, folder)
        info = builder._cifar_info._replace(url=url)
        type(builder)._cifar_info = info
        type(builder).url_infos = {url: UrlInfo(Size(size), sha256, url.rpartition("/")[2])}
        return builder
    module._builder_without_tensorflow = builder_of
    try:
        module.prepare_cifar("cifar10", pathlib.Path(folder))
    finally:
        module._builder_without_tensorflow = original

if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
"""


def prepare_from(host, content, folder):
    """Prepare CIFAR-10 from a host, where `content` is what it should send."""
    scope = {"__name__": "prepare"}
    exec(PREPARE, scope)  # noqa: S102
    scope["prepare"](host.url, hashlib.sha256(content).hexdigest(), len(content), folder)


@pytest.mark.fault(
    "A download arrives as an error page, cut short, or with one bit changed",
    "Both checksums and sizes are shown, the file is removed, and the next attempt is clean",
)
@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        (lambda content: b"<html>Service unavailable</html>", " bytes: probably an error page"),
        (lambda content: content[: len(content) // 2], " bytes: cut short"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), " bytes. It has been removed"),
    ],
    ids=["error-page", "half", "one-bit"],
)
def test_d17_a_wrong_checksum_is_shown_and_the_download_removed(
    sent, hint, cifar10, tmp_path, serve
):
    content = cifar10.archive.read_bytes()
    wrong = sent(content)
    host = serve(wrong)
    with pytest.raises(DataError) as error:
        prepare_from(host, content, tmp_path)
    message = str(error.value)
    assert (
        f"expected SHA-256 {hashlib.sha256(content).hexdigest()} and {len(content):,} " in message
    )
    assert f"got SHA-256 {hashlib.sha256(wrong).hexdigest()} and {len(wrong):,}{hint}" in message
    assert f"fetch {host.url} and put it at {tmp_path}/downloads/manual/cifar-10" in message
    assert [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "downloads").rglob("*.tmp.*")) == []
    # Nothing of it is in the way of the right one.
    prepare_from(serve(content), content, tmp_path)
    assert_prepared(cifar10, tmp_path)


@pytest.mark.fault(
    "A process is killed in the middle of a download",
    "The next one starts anew and never reads the half",
)
def test_d18_a_killed_download_starts_anew_and_its_half_is_never_used(cifar10, tmp_path, serve):
    content = cifar10.archive.read_bytes()
    host = serve(content, gap=len(content) // 2)
    facts = [host.url, hashlib.sha256(content).hexdigest(), str(len(content)), str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", PREPARE, *facts], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (halves := [path for path in leftovers(tmp_path) if path.stat().st_size]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (half,) = halves
    assert 0 < half.stat().st_size < len(content)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()

    host.gap = None
    prepare_from(host, content, tmp_path)
    assert len(host.requests) == 2
    assert all("Range" not in headers for headers in host.requests)
    assert half.read_bytes() == content[: half.stat().st_size]
    assert_prepared(cifar10, tmp_path)


def leftovers(folder):
    return list(folder.rglob("*.tmp.*/cifar-10-binary.tar.gz"))


def assert_prepared(expected, folder):
    """All records, as TFDS itself reads them."""
    for split, records in expected.splits.items():
        read = tfds.data_source("cifar10", split=split, data_dir=folder, download=False)
        assert len(read) == len(records.labels)
        for example in read:
            index = int(example["id"].decode().rpartition("_")[2])
            np.testing.assert_array_equal(example["image"], records.images[index])


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


@pytest.mark.fault(
    "A process is killed in the middle of unpacking an archive",
    "What it left is never used, and cleared away by the next one",
)
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


EVIL = {
    "parent": ("../evil.txt", b"evil", "would be written outside"),
    "windows-parent": ("a\\..\\..\\evil.txt", b"evil", "would be written outside"),
    "absolute": ("{outside}/evil.txt", b"evil", "is an absolute path"),
    "drive": ("C:/evil.txt", b"evil", "is an absolute path"),
    "share": ("\\\\host\\share\\evil.txt", b"evil", "is an absolute path"),
    "link-out": ("link", ("{outside}",), "is a symbolic link"),
    "link-within": ("link", ("a",), "is a symbolic link"),
}


@pytest.mark.fault(
    "Members of an archive have absolute paths, lead to ../, or are links",
    "The archive is refused by the name of the member, and nothing is written anywhere",
)
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
    assert "if you trust it, unpack it yourself and name the folder" in str(error.value)
    # Neither the evil member nor the one before it was written, anywhere.
    assert list(outside.iterdir()) == []
    left = [entry.name for entry in tmp_path.rglob("*")]
    assert not {"evil.txt", "fine.txt"} & set(left)
    assert list(cache.iterdir()) == []


@pytest.mark.fault(
    "An archive holds hard links to files outside, or devices",
    "The archive is refused by the name of the member, and nothing is written anywhere",
)
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


@pytest.mark.fault(
    "An archive with a path out of its folder is named as the data of a command",
    "The command exits with 1 and one message, without a traceback",
)
def test_d19_the_command_line_says_it_in_one_message(tmp_path, cache, capsys):
    path = write(tmp_path / "set.zip", {"train/a/1.png": b"", "../evil.txt": b"evil"})
    assert main(["data", "check", str(path)]) == 1
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())  # wherever the lines break
    assert "A training run would fail" in said
    assert f"{path} is refused: its member '../evil.txt' would be written outside" in said
    assert "Traceback" not in captured.out + captured.err
    assert not list(tmp_path.rglob("evil.txt"))
