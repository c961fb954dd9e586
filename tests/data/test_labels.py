"""Classes of labels as text or numbers, and the labels' places among them."""

import numpy as np
import pytest

from vit_jax.data.labels import classes_of, numbered, numbered_classes
from vit_jax.data.source import DataError


def where(index):
    return f"row {index}"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "9"], tuple(map(str, range(11)))),
        (["1", "01", "0"], ("0", "1")),
        (["1", "x"], ("1", "x")),
        (["-1", "x"], ("-1", "x")),
        (["1", "²"], ("1", "²")),
        (["1" * 19, "0"], ("0", "1" * 19)),  # beyond 64 bits: an id, not a number of a class
    ],
)
def test_classes_are_names_or_numbers(labels, names):
    assert classes_of(labels, where) == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "-3", "-1"], "row 1: label -3 is negative: classes count from 0"),
        (["a", "a"], r"row 0: there should be two classes or more, not \['a'\]"),
        (["0", "0"], r"row 0: there should be two classes or more, not \['0'\]"),
        (["0", "5", "1000"], "row 2: label 1000, but there are 3 different labels: .* 0 to 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        classes_of(labels, where)


def test_numbers_may_leave_some_out_but_not_most_of_many():
    assert len(numbered_classes(np.array([0, 999]), where)) == 1000
    half = np.arange(0, 2000, 2)
    assert len(numbered_classes(half, where)) == 1999
    with pytest.raises(DataError, match="row 1000: label 2002"):
        numbered_classes(np.append(half, 2002), where)
    assert numbered_classes(np.array([1, 2], np.uint64), where) == ("0", "1", "2")


def test_places_are_those_of_the_names_however_the_number_is_written():
    places = numbered(["2", "00", "+1"], ("0", "1", "2"), where)
    assert places.tolist() == [2, 0, 1]
    assert places.dtype == np.int32
    assert numbered(["b", "a"], ("a", "b"), where).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"row 1: label '01' is none of .*: 1, x$"):
        numbered(["1", "01"], ("1", "x"), where)
    names = tuple(f"n{number}" for number in range(30))
    with pytest.raises(DataError, match=r"'n30' is none of .*: 30 classes, such as n0, n1, n2$"):
        numbered(["n30"], names, where)
