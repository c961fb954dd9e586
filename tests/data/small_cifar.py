"""A small CIFAR-10 and CIFAR-100: the published layout of archives, prepared as the real ones."""

import io
import tarfile
import types

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from vit_jax.data.prepare_cifar import prepare_cifar

CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR100_NAMES = tuple(f"fine_{label}" for label in range(100))
COARSE_NAMES = tuple(f"coarse_{label}" for label in range(20))


def random_split(rng, size, classes):
    """Random images, but recognisable: no two alike, every channel, row and column different."""
    return types.SimpleNamespace(
        images=rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8),
        labels=rng.permutation(np.arange(size) % classes).astype(np.int32),
        coarse=rng.integers(0, 20, size).astype(np.int32),
    )


def records(split, *label_columns):
    """The bytes of a .bin file: per image its labels, then all red, all green, all blue pixels."""
    planes = split.images.transpose(0, 3, 1, 2).reshape(len(split.images), -1)
    columns = [column.astype(np.uint8)[:, None] for column in label_columns]
    return np.concatenate([*columns, planes], axis=1).tobytes()


def text(names):
    # The published files end in empty lines.
    return "".join(f"{name}\n" for name in names).encode() + b"\n"


def write_archive(path, prefix, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def small_cifar10(folder):
    rng = np.random.default_rng(10)
    train, test = random_split(rng, 100, 10), random_split(rng, 20, 10)
    whole = records(train, train.labels)
    files = {"batches.meta.txt": text(CIFAR10_NAMES)}
    for number in range(5):
        part = slice(number * len(whole) // 5, (number + 1) * len(whole) // 5)
        files[f"data_batch_{number + 1}.bin"] = whole[part]
    files["test_batch.bin"] = records(test, test.labels)
    write_archive(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin/", files)
    return CIFAR10_NAMES, train, test, folder / "cifar-10-binary.tar.gz"


def small_cifar100(folder):
    rng = np.random.default_rng(100)
    train, test = random_split(rng, 200, 100), random_split(rng, 100, 100)
    files = {
        "coarse_label_names.txt": text(COARSE_NAMES),
        "fine_label_names.txt": text(CIFAR100_NAMES),
        "train.bin": records(train, train.coarse, train.labels),
        "test.bin": records(test, test.coarse, test.labels),
    }
    write_archive(folder / "cifar-100-binary.tar.gz", "cifar-100-binary/", files)
    return CIFAR100_NAMES, train, test, folder / "cifar-100-binary.tar.gz"


def prepare_small(name, make, folder):
    """The source's splits and names, and the folder in which `prepare_cifar` has prepared it."""
    class_names, train, test, archive = make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download", lambda self, url: archive)
        patch.setattr(requests, "head", lambda url, **options: requests_answer())
        prepare_cifar(name, folder / "data")
    return types.SimpleNamespace(
        name=name,
        class_names=class_names,
        splits={"train": train, "test": test},
        archive=archive,
        root=folder / "data",
    )


def requests_answer():
    answer = requests.Response()
    answer.status_code = 200
    return answer
