"""Splits and slices, against what TFDS makes of them; the part held out."""

import numpy as np
import pytest
from tensorflow_datasets.core import splits as tfds_splits

from vit_jax.data.source import DataError
from vit_jax.data.splits import Bound, hold_out, parse_split, usual_name


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


@pytest.mark.parametrize("split", ["train[:150%]", "train[-500:]", "train[:101]", "train[-101%:]"])
def test_a_slice_outside_the_split_is_refused(split):
    _, bounds = parse_split(split)
    with pytest.raises(DataError, match="lies outside a split of 100 images"):
        [bound.resolve(100, default=0) for bound in bounds]


@pytest.mark.parametrize(
    ("name", "usual"),
    [("validation", "val"), ("Dev", "val"), ("training", "train"), ("TEST", "test"), ("f7", "f7")],
)
def test_splits_go_by_several_names(name, usual):
    assert usual_name(name) == usual


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.9])
def test_the_same_share_of_every_class_is_held_out(share):
    sizes = [100, 40, 7, 2, 1]
    labels = np.random.default_rng(0).permutation(np.repeat(range(5), sizes))
    kept, held = hold_out(labels, share, seed=1)
    assert sorted([*kept, *held]) == list(range(150))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    expected = [max(1, round(share * size)) if size > 1 else 0 for size in sizes]
    expected = [min(number, size - 1) for number, size in zip(expected, sizes, strict=True)]
    assert np.bincount(labels[held], minlength=5).tolist() == expected


def test_what_is_held_out_follows_from_the_seed():
    labels = np.arange(60) % 3
    first, again, other = (hold_out(labels, 0.3, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
