"""Hand-written digits that come with scikit-learn: 1,797 real images, no download."""

from typing import Any

import numpy as np

from vit_jax.data.source import ArraySource, DataError, digest


def digits(split: str) -> ArraySource:
    """The 8x8 digits (test part of UCI's Optical Recognition of Handwritten Digits).

    There are two splits: every fifth image of each class is a test image, which leaves 1,442 to
    train on and 355 to test. Pixels 0..16 become 0..255. Within a split the order is shuffled by a
    fixed seed, so that any slice holds all classes and writers.
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise DataError(f"split {split!r} of digits: there are 'train' and 'test'")
    bunch: Any = load_digits()
    images = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int32)

    rank_in_class = np.zeros(len(labels), int)
    for label in range(10):
        rank_in_class[labels == label] = np.arange((labels == label).sum())
    is_test = rank_in_class % 5 == 4
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    chosen = np.random.default_rng(0).permutation(chosen)
    return ArraySource(
        images[chosen],
        labels[chosen],
        class_names=tuple("0123456789"),
        fingerprint=digest("digits", split, images[chosen].tobytes(), labels[chosen].tobytes()),
    )
