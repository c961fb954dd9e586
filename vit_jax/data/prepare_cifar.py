"""Prepare CIFAR-10 and CIFAR-100 for TFDS without TensorFlow.

TFDS's own builders download, verify and describe these sets, but unpack and encode them with
TensorFlow. Here its builder keeps all but those two steps.
"""

import contextlib
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.source import DataError

ANSWER_SECONDS = 12.0
"""How long the host has to answer before the download; TFDS would retry a dead one for minutes."""


def prepare_cifar(name: str, folder: Path) -> None:
    """Download cifar10 or cifar100 into TFDS's `folder` and prepare it, showing progress.

    An archive put by hand into folder/downloads/manual is taken instead of the download. TFDS
    checks its SHA-256 either way. It downloads under a fresh name each time, so that what a killed
    process leaves is never used; a download with a wrong checksum is removed.

    Raises:
      DataError: the archive is not there and its host cannot be reached, or its checksum is wrong.
    """
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    builder = _builder_without_tensorflow(name, folder)
    manual = folder / "downloads" / "manual"
    url = builder._cifar_info.url
    archive = manual / url.rpartition("/")[2]
    if not archive.exists() and (error := _answer(url)):
        raise DataError(_unreachable(name, folder, url, archive)) from error
    print(f"Preparing {name} in {folder} (once)", flush=True)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=str(manual), try_download_gcs=False
            )
        )
    except NonMatchingChecksumError as error:
        expected = builder.url_infos[url]
        raise DataError(_wrong_checksum(name, url, archive, expected, str(error))) from error
    except (requests.RequestException, DownloadError) as error:
        raise DataError(_unreachable(name, folder, url, archive)) from error
    except OSError as error:
        raise DataError(f"{name} cannot be prepared in {folder}: {error}") from error


def _builder_without_tensorflow(name: str, folder: Path) -> Any:
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import cifar

    published = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}[name]

    def split_generators(self, download_manager):
        archive = download_manager.download(self._cifar_info.url)
        facts = self._cifar_info
        contents: dict[str, bytes] = {}
        with tarfile.open(archive) as tar:
            for file in facts.label_files + facts.train_files + facts.test_files:
                # Read in memory: nothing is unpacked, so no member can write anywhere.
                member = tar.extractfile(facts.prefix + file)
                assert member is not None, "TFDS has checked the archive's checksum"
                contents[file] = member.read()
        for key, file in zip(facts.label_keys, facts.label_files, strict=True):
            self.info.features[key].names = contents[file].decode().split()
        return {
            split: _examples(f"{split}_", [contents[file] for file in files], facts.label_keys)
            for split, files in (("train", facts.train_files), ("test", facts.test_files))
        }

    # The subclass must carry the published name, and TFDS must not register it under that name.
    with registered.skip_registration():
        builder_class = type(
            published.__name__,
            (published,),
            {
                "__module__": published.__module__,
                "name": name,
                "_split_generators": split_generators,
                "_get_pkg_dir_path": classmethod(lambda cls: published._get_pkg_dir_path()),
            },
        )
    return builder_class(data_dir=folder, file_format="array_record")


def _examples(prefix: str, files: list[bytes], label_keys: list[str]) -> Iterator[tuple[int, dict]]:
    """Records of one byte per label, then 3 x 32 x 32 bytes of pixels; keys are TFDS's own."""
    from PIL import Image

    labels = len(label_keys)
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, labels + 3 * 32 * 32)
    for index, record in enumerate(records):
        png = io.BytesIO()
        pixels = np.ascontiguousarray(record[labels:].reshape(3, 32, 32).transpose(1, 2, 0))
        Image.fromarray(pixels).save(png, "PNG")
        png.seek(0)
        example = dict(zip(label_keys, record[:labels].tolist(), strict=True))
        yield index, {"id": f"{prefix}{index:05d}", "image": png, **example}


def _answer(url: str) -> Exception | None:
    """What is wrong with asking for this URL, known within `ANSWER_SECONDS`; None if it answers."""
    import requests

    found: list[Exception | None] = []

    def ask():
        try:
            requests.head(url, timeout=ANSWER_SECONDS, allow_redirects=True).raise_for_status()
            found.append(None)
        except requests.RequestException as error:
            found.append(error)

    # In a thread, because no time-out of a request covers the look-up of the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return found[0] if found else TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")


def _wrong_checksum(name: str, url: str, archive: Path, expected: Any, tfds_says: str) -> str:
    """What is wrong with an archive; it is removed unless it was put there by hand."""
    place = re.search(r"downloaded to (.+), has wrong checksum", tfds_says)
    file = Path(place[1]) if place else archive
    if not file.exists():
        return f"the archive of {name} is not the published one: {tfds_says}"
    size = file.stat().st_size
    with file.open("rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    hint = ": cut short" if size < expected.size else ""
    hint = ": probably an error page" if size < expected.size / 100 else hint
    facts = (
        f"the archive of {name} is not the published one: expected SHA-256 {expected.checksum} and "
        f"{expected.size:,} bytes, got SHA-256 {got} and {size:,} bytes{hint}"
    )
    if file == archive:
        return f"{facts}. Delete {archive} and try again"
    # TFDS downloads into a folder of its own, and leaves both there.
    with contextlib.suppress(OSError):
        file.unlink()
        file.parent.rmdir()
    return f"{facts}. It has been removed: try again, or fetch {url} and put it at {archive}"


def _unreachable(name: str, folder: Path, url: str, archive: Path) -> str:
    return (
        f"{name} is not in {folder} and its host does not answer. Either set TFDS_DATA_DIR or "
        f"data.root to the folder that holds {name}, or fetch {url} elsewhere and put it at "
        f"{archive}, or train on data that needs no network: --config configs/digits.py"
    )
