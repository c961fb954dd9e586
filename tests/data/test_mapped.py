"""Mapped arrays: what is sent to another process, and what comes out of it."""

import pickle

import numpy as np
import pytest

from vit_jax.data.mapped import MappedArray, array_digest, map_array, map_file

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(7, 5, 3), (3000, 40)])
def test_parts_of_a_mapped_array_find_their_places(tmp_path, shape):
    array = RNG.integers(0, 60_000, shape, dtype=np.uint16)
    np.save(tmp_path / "a.npy", array)
    whole = map_file(tmp_path / "a.npy")
    for index in (slice(None), slice(2, 5), 3, (4, slice(1, 3)), slice(0, 7, 2), [5, 1], ...):
        part = whole[index]
        again = pickle.loads(pickle.dumps(part))  # noqa: S301
        np.testing.assert_array_equal(again, array[index])
        assert again.dtype == array.dtype
    # What was picked or computed lies in memory, and nothing drags the map along.
    for plain in (whole[[5, 1]], pickle.loads(pickle.dumps(whole[::2]))):  # noqa: S301
        assert type(plain) is np.ndarray
    assert type(whole[2:5]) is MappedArray
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(whole[2:5]))[1:]))  # noqa: S301
    np.testing.assert_array_equal(again, array[3:5])


@pytest.mark.parametrize("offset", [0, 4, 4096, 70_000])
def test_an_array_may_begin_anywhere_in_its_file(tmp_path, offset):
    array = RNG.integers(0, 2**31, (50, 6), dtype=np.int32)
    (tmp_path / "a").write_bytes(bytes(offset) + array.tobytes() + b"more")
    whole = map_array(str(tmp_path / "a"), "<i4", (50, 6), offset)
    np.testing.assert_array_equal(whole, array)
    sent = pickle.dumps(whole[10:40])
    assert len(sent) < 400
    np.testing.assert_array_equal(pickle.loads(sent), array[10:40])  # noqa: S301
    with pytest.raises(ValueError, match="read-only"):
        whole[0] = 0


def test_columns_first_are_sent_by_their_elements(tmp_path):
    array = RNG.integers(0, 2**31, (5, 6), dtype=np.int32)
    (tmp_path / "a").write_bytes(array.tobytes(order="F"))
    whole = map_array(str(tmp_path / "a"), "<i4", (5, 6), 0, fortran=True)
    np.testing.assert_array_equal(whole, array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole)), array)  # noqa: S301
    assert pickle.loads(pickle.dumps(whole[2:2])).shape == (0, 6)  # noqa: S301


@pytest.mark.parametrize("size", [1, 2, 255, 1000])
def test_the_digest_follows_every_label_and_the_ends(size):
    images, labels = RNG.integers(0, 256, (size, 2, 2, 1), dtype=np.uint8), np.zeros(size, np.int32)
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
