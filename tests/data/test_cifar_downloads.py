"""Downloads of CIFAR that go wrong: another content than the published, and a killed process."""

import contextlib
import hashlib
import http.server
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vit_jax.data.source import DataError


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
