"""Splits and slices, against what TFDS makes of them; statistics; classes."""

import numpy as np
import pytest
from tensorflow_datasets.core import splits as tfds_splits

from vit_jax.data.source import (
    ArraySource,
    Bound,
    DataError,
    channel_statistics,
    check_classes,
    digest,
    parse_split,
)


def our_range(spec, length):
    _, (start, stop) = parse_split(spec)
    return start.resolve(length, default=0), stop.resolve(length, default=length)


def tfds_range(spec, length):
    info = tfds_splits.SplitInfo(name="train", shard_lengths=[length], num_bytes=0)
    (absolute,) = tfds_splits.AbstractSplit.from_spec(spec).to_absolute({"train": info})
    return absolute.from_ or 0, length if absolute.to is None else absolute.to


PERCENTAGES = [
    spec
    for percent in range(1, 100)
    for spec in (
        f"train[:{percent}%]",
        f"train[{percent}%:]",
        f"train[-{percent}%:]",
        f"train[:-{percent}%]",
    )
]


# 137, 1442 and 50,001 round differently up and down; 200 has halves.
@pytest.mark.parametrize("length", [137, 200, 1442, 50_000, 50_001])
@pytest.mark.parametrize(
    "specs",
    [
        ["train", "train[0:]", "train[:100%]", "train[0%:100%]", "train[-100%:]"],
        ["train[:1]", "train[10:20]", "train[-10:]", "train[:-10]", "train[-20:-10]", "train[7:]"],
        PERCENTAGES,
    ],
    ids=["whole", "absolute", "percentages"],
)
def test_slices_mean_what_tfds_means(specs, length):
    for spec in specs:
        assert our_range(spec, length) == tfds_range(spec, length), spec


@pytest.mark.parametrize(
    ("spec", "length", "expected"),
    [
        ("train[:]", 50, (0, 50)),
        ("train[10%:20]", 50, (5, 20)),
        ("train[10:90%]", 50, (10, 45)),
        ("train[-20:-10%]", 50, (30, 45)),
        ("train[-1%:]", 20, (20, 20)),  # a fifth of an image from the end: none
        ("train[:1%]", 20, (0, 0)),
    ],
)
def test_slices_beyond_what_tfds_reads(spec, length, expected):
    assert our_range(spec, length) == expected


@pytest.mark.parametrize("length", [1, 7, 100, 1442, 50_001])
@pytest.mark.parametrize("percent", [1, 33, 50, 90, 98])
def test_the_two_sides_of_a_cut_share_nothing_and_miss_nothing(length, percent):
    _, cut = our_range(f"train[:{percent}%]", length)
    assert our_range(f"train[{percent}%:]", length) == (cut, length)


def test_a_split_keeps_its_name():
    assert parse_split("train")[0] == "train"
    assert parse_split(" test_2[:5] ")[0] == "test_2"
    assert parse_split("train[-5:10%]")[1] == (Bound(-5), Bound(10, percent=True))


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "train[",
        "train[:",
        "train[5]",
        "train[1:2:3]",
        "train[:1.5%]",
        "train[a:]",
        "a+b",
        "[:5]",
    ],
)
def test_what_is_no_split_is_refused_with_examples(spec):
    with pytest.raises(DataError, match="cannot be read") as error:
        parse_split(spec)
    assert repr(spec) in str(error.value)
    assert "train[:90%]" in str(error.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channel_statistics_equal_numpys(channels):
    rng = np.random.default_rng(0)
    # Channels of different mean and spread, so that mixing them up shows.
    high = 40 * np.arange(2, channels + 2)
    images = rng.integers(0, high, (50, 6, 5, channels)).astype(np.uint8)
    mean, std = channel_statistics(images)
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)
    assert len(mean) == len(std) == channels


def test_statistics_of_one_value():
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 255, np.uint8))
    assert mean == (1.0,)
    assert std == (0.0,)


def source_with(*names):
    return ArraySource(np.zeros((2, 1, 1, 1), np.uint8), np.array([1, 0]), names, "")


def test_an_array_source_gives_examples():
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    source = ArraySource(images, np.array([5, 6, 7], np.int32), ("a",), "f")
    assert len(source) == 3
    example = source[1]
    np.testing.assert_array_equal(example["image"], images[1])
    assert example["label"] == 6
    assert type(example["label"]) is int


def test_splits_must_have_the_same_classes_in_the_same_order():
    check_classes([source_with("a", "b"), source_with("a", "b")])
    check_classes([source_with("a")])
    with pytest.raises(DataError, match=r"\('a', 'b'\) and \('b', 'a'\)"):
        check_classes([source_with("a", "b"), source_with("a", "b"), source_with("b", "a")])


def test_digests_tell_apart_and_are_stable():
    different = [digest("a", 1), digest("a", 2), digest("a1"), digest(b"a", 1), digest("a", "1")]
    assert len(set(different)) == len(different)
    # Written down: runs compare today's fingerprint with the one they stored.
    assert digest("a", 1) == "391d545b6971354e"


@pytest.mark.parametrize("split", ["train[:150%]", "train[-500:]", "train[:101]", "train[-101%:]"])
def test_a_slice_outside_the_split_is_refused(split):
    _, bounds = parse_split(split)
    with pytest.raises(DataError, match="lies outside a split of 100 images"):
        [bound.resolve(100, default=0) for bound in bounds]
