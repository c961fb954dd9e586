"""The digits that come with scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vit_jax.data.digits import digits
from vit_jax.data.source import DataError


@pytest.fixture(scope="module")
def published():
    """All images as scikit-learn has them, scaled from 0..16 to 0..255, by label."""
    bunch = load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8)[..., None], bunch.target


@pytest.mark.parametrize(("split", "size"), [("train", 1442), ("test", 355)])
def test_sizes_types_and_classes(split, size):
    source = digits(split)
    assert len(source) == size
    assert source.images.shape == (size, 8, 8, 1)
    assert source.images.dtype == np.uint8
    assert source.labels.dtype == np.int32
    assert source.class_names == tuple("0123456789")
    assert source.images.min() == 0
    assert source.images.max() == 255


def test_every_class_has_a_fifth_of_its_images_in_the_test_split(published):
    _, labels = published
    counts = {split: np.bincount(digits(split).labels, minlength=10) for split in ("train", "test")}
    np.testing.assert_array_equal(counts["test"], np.bincount(labels) // 5)
    np.testing.assert_array_equal(counts["train"] + counts["test"], np.bincount(labels))


def by_content(images, labels):
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def test_the_splits_share_no_image_and_together_are_the_published_set(published):
    train, test = digits("train"), digits("test")
    ours = by_content(train.images, train.labels), by_content(test.images, test.labels)
    assert not set(ours[0]) & set(ours[1])
    # Every pixel and label of every image, whatever the order.
    assert sorted(ours[0] + ours[1]) == sorted(by_content(*published))


def test_the_order_is_shuffled_and_always_the_same():
    first, again = digits("train"), digits("train")
    np.testing.assert_array_equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint != digits("test").fingerprint
    # The published order runs 0, 1, 2, …, 9, 0, 1, …: shuffled, a tenth has all classes unevenly.
    assert first.labels[:20].tolist() != [*range(10), *range(10)]
    for start in range(0, 1400, 140):
        assert set(first.labels[start : start + 140]) == set(range(10))


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="split 'validation' of digits: there are 'train' and 'te"):
        digits("validation")
