"""Parts of a data set: slices by TFDS's notation, the usual names, and a part held out."""

import dataclasses
import re

import numpy as np

from vit_jax.data.source import DataError

USUAL = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names that one and the same split goes by."""


def usual_name(split: str) -> str:
    """ "validation" -> "val"; another name stays as it is."""
    return next((usual for usual, names in USUAL.items() if split.lower() in names), split)


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices kept and indices held out of labels [n], both in the order they had.

    Of every class the same share is drawn, rounded, but at least one example is held out and one
    kept; a class with a single example keeps it.
    """
    held = np.zeros(len(labels), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        number = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng.permutation(members)[:number]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclasses.dataclass(frozen=True)
class Bound:
    """One end of a slice: a number of images, a percentage, or nothing."""

    value: int | None = None
    percent: bool = False

    def resolve(self, length: int, default: int) -> int:
        """The index this bound stands for in a split of `length` images.

        Raises:
          DataError: it lies outside the split.
        """
        if self.value is None:
            return default
        index = round(self.value * length / 100) if self.percent else self.value
        index += length if self.value < 0 else 0
        if not 0 <= index <= length:
            unit = "%" if self.percent else ""
            raise DataError(
                f"{self.value}{unit} lies outside a split of {length} images: slices go from "
                f"-{length} to {length}, or from -100% to 100%"
            )
        return index


def places_of(split: str, length: int) -> range:
    """The indices that "train[10%:500]" takes of a whole split of so many images.

    Raises:
      DataError: the notation cannot be read, or the slice is empty or lies outside.
    """
    name, (start, stop) = parse_split(split)
    places = range(start.resolve(length, default=0), stop.resolve(length, default=length))
    if not places:
        raise DataError(f"split {split!r} is empty: {name!r} has {length} images")
    return places


def parse_split(split: str) -> tuple[str, tuple[Bound, Bound]]:
    """ "train[10%:500]" -> ("train", (10 %, 500)), the slice notation of TFDS."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split.strip())
    if not match:
        raise DataError(
            f"split {split!r} cannot be read: write a name, or a slice in images or per cent, such "
            "as train, train[:90%], train[-500:]"
        )
    name, *bounds = match.groups()
    start, stop = (
        Bound() if text is None else Bound(int(text.rstrip("%")), text.endswith("%"))
        for text in bounds
    )
    return name, (start, stop)
