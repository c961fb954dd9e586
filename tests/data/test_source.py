"""Sources in memory, and classes."""

import numpy as np
import pytest

from vit_jax.data.source import ArraySource, DataError, array_digest, check_classes, digest


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


def test_taking_examples_keeps_what_belongs_to_them():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    source = ArraySource(
        images, np.arange(5, dtype=np.int32), ("a",), "f", names=list("vwxyz"), bad={1: "b", 3: "d"}
    )
    part = source.take(np.array([4, 3, 0]))
    assert part.images.reshape(-1).tolist() == part.labels.tolist() == [4, 3, 0]
    assert [part.name(index) for index in range(3)] == ["z", "y", "v"]
    assert part.bad == {1: "d"}
    assert part.fingerprint not in (
        source.fingerprint,
        source.take(np.array([3, 4, 0])).fingerprint,
    )


def test_a_slice_of_a_mapped_file_stays_mapped(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((9, 2, 2, 1), np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    part = ArraySource(mapped, np.zeros(9, np.int32), ("a",), "f").take(np.arange(2, 7))
    assert isinstance(part.images, np.memmap)
    assert np.shares_memory(part.images, mapped)
    assert len(part) == 5


@pytest.mark.parametrize("size", [1, 2, 255, 1000])
def test_the_digest_follows_every_label_and_the_ends(size):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (size, 2, 2, 1), dtype=np.uint8), np.zeros(size, np.int32)
    found = {array_digest(images, labels)}
    for place in {0, size - 1}:
        changed = images.copy()
        changed[place] ^= 1
        found.add(array_digest(changed, labels))
    for place in {0, size // 2, size - 1}:
        changed = labels.copy()
        changed[place] = 1
        found.add(array_digest(images, changed))
    assert len(found) == 1 + len({0, size - 1}) + len({0, size // 2, size - 1})
    assert array_digest(images, labels) in found
