"""Classes of labels that come as text or numbers, and the labels' places among them."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.data.source import DataError


def classes_of(labels: Sequence[str], where: Callable[[int], str]) -> tuple[str, ...]:
    """The classes of training labels, as written: by name, or by number if all are integers.

    Numbers are the labels 0 to the largest one.

    Raises:
      DataError: there are no two classes, or numbers that cannot be counted from 0.
    """
    distinct = sorted(set(labels))
    if not all(_is_integer(label) for label in distinct):
        names = tuple(distinct)
    else:
        names = numbered_classes(np.array([int(label) for label in labels]), where)
    if len(names) < 2:
        raise DataError(f"{where(0)}: there should be two classes or more, not {list(names)}")
    return names


def numbered_classes(labels: np.ndarray, where: Callable[[int], str]) -> tuple[str, ...]:
    """ "0" to "K-1" for integer training labels [n], of which K-1 is the largest.

    Raises:
      DataError: a label is negative, or the labels leave out most of a large range, as ids do.
    """
    if (labels < 0).any():
        index = int(np.flatnonzero(labels < 0)[0])
        raise DataError(f"{where(index)}: label {labels[index]} is negative: classes count from 0")
    largest, distinct = int(labels.max()), len(np.unique(labels))
    if largest >= max(1000, 2 * distinct):
        index = int(labels.argmax())
        raise DataError(
            f"{where(index)}: label {largest}, but there are {distinct} different labels: number "
            f"the classes from 0 to {distinct - 1}"
        )
    return tuple(str(label) for label in range(largest + 1))


def numbered(
    labels: Sequence[str], class_names: Sequence[str], where: Callable[[int], str]
) -> np.ndarray:
    """int32 [n]: the places of labels in `class_names`; integers may be written as 7 or 07.

    Raises:
      DataError: a label is none of the classes.
    """
    place = {name: number for number, name in enumerate(class_names)}
    integers = all(_is_integer(name) for name in class_names)
    found = np.empty(len(labels), np.int32)
    for index, label in enumerate(labels):
        number = place.get(str(int(label)) if integers and _is_integer(label) else label)
        if number is None:
            several = f"{len(class_names)} classes, such as {', '.join(class_names[:3])}"
            known = ", ".join(class_names) if len(class_names) <= 20 else several
            raise DataError(
                f"{where(index)}: label {label!r} is none of the training split's: {known}"
            )
        found[index] = number
    return found


def _is_integer(label: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", label) is not None
