"""Data sets by name, and the splits of them that a config asks for."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vit_jax.data.encoded import FileSource
from vit_jax.data.source import (
    ArraySource,
    DataConfig,
    DataError,
    check_classes,
    declared_size,
)
from vit_jax.data.splits import hold_out, parse_split, places_of, usual_name

AnySource = ArraySource | FileSource


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How a kind of data is read."""

    splits: Callable[[DataConfig], list[str]]
    """The names of its splits."""
    open: Callable[[DataConfig, str], AnySource]
    """A whole split, by its name."""


def open_splits(config: DataConfig) -> dict[str, AnySource]:
    """What the config asks for, by use: "train", and "eval" and "test" where they are wanted.

    Raises:
      DataError: there is no such data set, split or slice, its files cannot be had, its classes
        differ between splits, or its images are not of `config.image_size`.
    """
    if not config.train_split:
        raise DataError("data.train_split is empty: name the images to train on")
    there = split_names(config) if "auto" in (config.eval_split, config.test_split) else []
    sources = {"train": open_source(config, config.train_split)}
    if config.eval_split == "auto" and "val" not in there:
        sources |= _held_out(config, sources["train"])
    elif config.eval_split:
        eval_split = "val" if config.eval_split == "auto" else config.eval_split
        sources["eval"] = open_source(config, eval_split)
    test_split = config.test_split
    if test_split == "auto":
        test_split = "test" if "test" in there else None
    if test_split:
        sources["test"] = open_source(config, test_split)
    check_classes(list(sources.values()))
    return sources


def open_source(config: DataConfig, split: str) -> AnySource:
    """One split, such as "train", or a slice of one, of the data set the config names.

    Raises:
      DataError: see `open_splits`.
    """
    name, _ = parse_split(split)
    whole = _kind(config).open(config, name)
    size, (height, width, _) = declared_size(config), whole.image_shape
    if size not in (None, (height, width)):
        raise DataError(
            f"data.image_size={config.image_size}, but the images of {config.name} are "
            f"{height}x{width} pixels: leave it out, only encoded images are resized"
        )
    places = places_of(split, len(whole))
    return whole if len(places) == len(whole) else whole.take(np.array(places))


def split_names(config: DataConfig) -> list[str]:
    """The splits that the data have, by their usual names.

    Raises:
      DataError: there is no such data set.
    """
    return [usual_name(name) for name in _kind(config).splits(config)]


def _held_out(config: DataConfig, train: AnySource) -> dict[str, AnySource]:
    if not 0 < config.holdout < 1:
        raise DataError(
            f"data.holdout={config.holdout}: should be above 0 and below 1, the share of the "
            "training images that is held out; for no evaluation set data.eval_split=None"
        )
    kept, held = hold_out(train.labels, config.holdout, config.holdout_seed)
    if not len(held):
        raise DataError(
            "data.eval_split='auto' holds part of the training images out, but no class has two: "
            "set data.eval_split=None"
        )
    return {"train": train.take(kept), "eval": train.take(held)}


def _kind(config: DataConfig) -> _Kind:
    """The functions that read the data set a config names."""
    if config.name == "digits":
        from vit_jax.data.digits import digits

        return _Kind(lambda _: ["train", "test"], lambda _, split: digits(split))
    if config.name == "folder":
        from vit_jax.data.folder import folder_source, split_folders

        return _Kind(lambda config: list(split_folders(config)), folder_source)
    if config.name == "csv":
        from vit_jax.data.table import table_source, table_splits

        return _Kind(table_splits, table_source)
    if config.name == "arrays":
        from vit_jax.data.arrays import array_source, array_splits

        return _Kind(array_splits, array_source)
    if config.name == "huggingface":
        from vit_jax.data.huggingface import saved_source, saved_splits

        return _Kind(saved_splits, saved_source)
    if config.name in ("cifar10", "cifar100") or config.name.startswith("tfds:"):
        from vit_jax.data.tfds_source import tfds_source, tfds_splits

        return _Kind(tfds_splits, tfds_source)
    raise DataError(
        f"data.name={config.name!r} is no known data set: use digits, cifar10, cifar100, tfds:NAME "
        "for any TFDS set with image and label, folder for images in folders, csv for a table of "
        "paths and labels, arrays for .npz and .npy files, or huggingface for a set that "
        "`datasets` has saved"
    )
