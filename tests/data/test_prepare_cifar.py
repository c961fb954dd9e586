"""Preparing CIFAR without TensorFlow, and what is said when that cannot work."""

import hashlib
import io
import json
import shutil
import threading
import time

import numpy as np
import PIL.Image
import pytest
import requests
import tensorflow_datasets as tfds

from vit_jax.data import prepare_cifar as module
from vit_jax.data.prepare_cifar import prepare_cifar
from vit_jax.data.source import DataError
from vit_jax.data.tfds_source import tfds_arrays


@pytest.mark.parametrize("which", ["cifar10", "cifar100"])
def test_tfds_reads_back_every_record_of_the_archive(which, request):
    small = request.getfixturevalue(which)
    builder = tfds.builder(which, data_dir=small.root)
    assert builder.info.full_name == f"{which}/3.0.2"
    assert builder.info.features["label"].names == list(small.class_names)
    for split, expected in small.splits.items():
        read = tfds.data_source(which, split=split, data_dir=small.root, download=False)
        assert len(read) == len(expected.labels) == builder.info.splits[split].num_examples
        by_id = {example["id"].decode(): example for example in read}
        assert set(by_id) == {f"{split}_{index:05d}" for index in range(len(read))}
        for index in range(len(read)):
            example = by_id[f"{split}_{index:05d}"]
            np.testing.assert_array_equal(example["image"], expected.images[index])
            assert example["label"] == expected.labels[index]
            if which == "cifar100":
                assert example["coarse_label"] == expected.coarse[index]


def test_cifar100_has_the_names_of_both_its_labels(cifar100):
    features = tfds.builder("cifar100", data_dir=cifar100.root).info.features
    assert features["label"].names[:2] == ["fine_0", "fine_1"]
    assert features["coarse_label"].names[-1] == "coarse_19"


def test_images_are_stored_as_png(cifar10):
    # As TFDS's own preparation has them, so that every reader of TFDS sets can read this one.
    reader = tfds.data_source(
        "cifar10",
        split="test",
        data_dir=cifar10.root,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    image = PIL.Image.open(io.BytesIO(reader[0]["image"]))
    assert image.format == "PNG"
    assert image.size == (32, 32)


def test_only_what_tfds_expects_is_left_in_the_folder(cifar10):
    folder = cifar10.root / "cifar10" / "3.0.2"
    files = {path.name for path in folder.iterdir() if path.name != "vit_jax_decoded"}
    assert files == {
        "cifar10-train.array_record-00000-of-00001",
        "cifar10-test.array_record-00000-of-00001",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
    }
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"


def test_opening_a_set_that_is_not_there_prepares_it_once(cifar10, tmp_path, monkeypatch):
    downloads = []

    def download(manager, url):
        downloads.append(url)
        return cifar10.archive

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    monkeypatch.setattr(requests, "head", lambda url, **options: answer(200))
    for _ in range(2):
        source = tfds_arrays("cifar10", "train", str(tmp_path))
        theirs = tfds_arrays("cifar10", "train", str(cifar10.root))
        np.testing.assert_array_equal(source.images, theirs.images)
        np.testing.assert_array_equal(source.labels, theirs.labels)
    assert downloads == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def answer(status):
    response = requests.Response()
    response.status_code = status
    return response


def refuse_network(*args, **options):
    raise AssertionError("no network is needed here")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_wrong_archive_is_refused_by_name(name, cifar10, cifar100, tmp_path, monkeypatch):
    # The small archive is a sound one, but not the one whose checksum TFDS knows.
    monkeypatch.setattr(requests, "head", refuse_network)
    monkeypatch.setattr(requests.Session, "request", refuse_network)
    small = {"cifar10": cifar10, "cifar100": cifar100}[name]
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    shutil.copy(small.archive, manual)
    content = small.archive.read_bytes()
    published = {"cifar10": "c4a38c50a1bc5f3a", "cifar100": "58a81ae192c23a4b"}[name]
    with pytest.raises(DataError, match=f"expected SHA-256 {published}") as error:
        prepare_cifar(name, tmp_path)
    message = str(error.value)
    assert f"got SHA-256 {hashlib.sha256(content).hexdigest()} and {len(content):,} " in message
    assert f"Delete {manual / small.archive.name} and try again" in message
    # What the user put there is the user's to delete.
    assert (manual / small.archive.name).read_bytes() == content
    assert not (tmp_path / name / "3.0.2").exists()


def refuse(release):
    def head(url, **options):
        raise requests.ConnectionError("Connection refused")

    return head


def hang(release):
    def head(url, **options):
        release.wait(60)
        return answer(200)

    return head


def fail(release):
    return lambda url, **options: answer(503)


@pytest.mark.parametrize("host", [refuse, hang, fail])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_network_it_says_soon_where_to_put_the_archive(name, host, tmp_path, monkeypatch):
    assert module.ANSWER_SECONDS <= 15
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(requests.Session, "request", refuse_network)
    release = threading.Event()
    monkeypatch.setattr(requests, "head", host(release))
    before = time.perf_counter()
    try:
        with pytest.raises(DataError) as error:
            tfds_arrays(name, "train", str(tmp_path))
    finally:
        release.set()
    assert time.perf_counter() - before < 5
    message = str(error.value)
    archive = f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
    assert f"{name} is not in {tmp_path} " in message
    assert f"https://www.cs.toronto.edu/~kriz/{archive}" in message
    assert f"put it at {tmp_path / 'downloads' / 'manual' / archive}" in message
    assert "TFDS_DATA_DIR" in message
    assert "configs/digits.py" in message


def test_the_host_is_asked_with_a_time_limit(tmp_path, monkeypatch):
    asked = []

    def head(url, **options):
        asked.append((url, options))
        raise requests.Timeout("no answer")

    monkeypatch.setattr(requests, "head", head)
    with pytest.raises(DataError):
        prepare_cifar("cifar10", tmp_path)
    ((url, options),) = asked
    assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert 0 < options["timeout"] <= 15
