"""Data sets by name, and slices of them."""

import numpy as np
import pytest

from vit_jax.data.catalog import open_source
from vit_jax.data.source import DataConfig, DataError

DIGITS = DataConfig(name="digits")


@pytest.mark.parametrize(
    ("split", "start", "stop"),
    [
        ("train", 0, 1442),
        ("train[:90%]", 0, 1298),
        ("train[90%:]", 1298, 1442),
        ("train[-100:]", 1342, 1442),
        ("train[5:8]", 5, 8),
    ],
)
def test_a_slice_is_that_part_of_the_whole(split, start, stop):
    whole, part = open_source(DIGITS, "train"), open_source(DIGITS, split)
    np.testing.assert_array_equal(part.images, whole.images[start:stop])
    np.testing.assert_array_equal(part.labels, whole.labels[start:stop])
    assert len(part) == stop - start
    assert part.class_names == whole.class_names


def test_fingerprints_tell_splits_and_slices_apart_and_are_stable():
    splits = ["train", "train[:90%]", "train[:1298]", "train[90%:]", "train[1:]", "test"]
    fingerprints = [open_source(DIGITS, split).fingerprint for split in splits]
    assert fingerprints == [open_source(DIGITS, split).fingerprint for split in splits]
    # 90 per cent of 1,442 images are 1,298: the same images, written in two ways.
    assert fingerprints[1] == fingerprints[2]
    assert len(set(fingerprints)) == len(splits) - 1


@pytest.mark.parametrize("split", ["train[5:5]", "train[90%:10%]", "train[1442:]", "train[:0]"])
def test_an_empty_slice_is_refused_with_the_size(split):
    with pytest.raises(DataError, match="is empty: 'train' has 1442 images") as error:
        open_source(DIGITS, split)
    assert repr(split) in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "CIFAR10", "", "cifar-10"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(DataError, match="is no known data set") as error:
        open_source(DataConfig(name=name), "train")
    assert f"data.name={name!r}" in str(error.value)
    assert "digits, cifar10, cifar100, tfds:NAME" in str(error.value)


def test_cifar_by_its_name_and_by_tfds_name_is_the_same(cifar10):
    short = open_source(DataConfig(name="cifar10", root=str(cifar10.root)), "train[10:20]")
    long = open_source(DataConfig(name="tfds:cifar10", root=str(cifar10.root)), "train[10:20]")
    assert short.fingerprint == long.fingerprint
    np.testing.assert_array_equal(short.images, long.images)


def test_the_data_folder_is_taken_from_the_environment(cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10.root))
    assert len(open_source(DataConfig(name="cifar10"), "test")) == 20


@pytest.mark.parametrize("image_size", [8, (8, 8), None])
def test_the_size_of_fixed_images_may_be_named(image_size):
    source = open_source(DataConfig(name="digits", image_size=image_size), "test")
    assert source.images.shape == (355, 8, 8, 1)


@pytest.mark.parametrize("image_size", [32, (8, 16)])
def test_another_size_of_fixed_images_is_refused(image_size):
    with pytest.raises(DataError, match="of digits are 8x8 pixels: leave it out") as error:
        open_source(DataConfig(name="digits", image_size=image_size), "test")
    assert f"data.image_size={image_size}" in str(error.value)
