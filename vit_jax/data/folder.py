"""Images in folders: ROOT/SPLIT/CLASS/FILES, or ROOT/CLASS/FILES without splits.

Nothing is ever written beside the images.
"""

import dataclasses
import difflib
import os
from pathlib import Path

import numpy as np

from vit_jax.data.archive import is_archive, unpacked
from vit_jax.data.encoded import Files, FileSource, contents_digest, pixels_of
from vit_jax.data.source import DataConfig, DataError, digest
from vit_jax.data.splits import USUAL, parse_split, usual_name

LAYOUT = (
    "images of a folder lie in ROOT/SPLIT/CLASS/FILE, such as ROOT/train/ants/1.jpg, or without "
    "splits in ROOT/CLASS/FILE"
)
JUNK = ("thumbs.db", "desktop.ini", "__macosx")
"""What operating systems leave in folders, besides names that begin with a dot."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a split holds, in the order of its examples."""

    folder: Path
    class_names: tuple[str, ...]
    paths: list[str]
    """Relative to the folder."""
    labels: np.ndarray
    """int32 [n]"""
    ignored: int
    """Hidden files, leavings of operating systems, and links that lead back to where they are."""


def folder_source(config: DataConfig, split: str) -> FileSource:
    """A whole split of the images in `config.root`.

    Classes are the folders of the split, by name, and are the same in all splits; what lies in
    folders of a class belongs to it. Classes take turns in proportion, each with its files by name,
    so that every slice of a split holds all of them.

    Raises:
      DataError: folders, files or fields are not as they should be; names the file or the field.
    """
    folders = split_folders(config)
    listing = list_split(_folder_of(split, folders, config))
    train_split = parse_split(config.train_split)[0]
    train = listing
    if usual_name(train_split) != usual_name(split) and usual_name(train_split) in folders:
        train = list_split(_folder_of(train_split, folders, config))
    if listing.class_names != train.class_names:
        names, others = set(listing.class_names), set(train.class_names)
        raise DataError(
            f"{listing.folder} and {train.folder} should hold the same classes: only the first has "
            f"{sorted(names - others)}, only the second {sorted(others - names)}"
        )
    encoded = Files.of(listing.folder, listing.paths)
    pixels = pixels_of(config, Files.of(train.folder, train.paths))
    return FileSource(
        encoded,
        listing.labels,
        listing.class_names,
        digest("folder", listing.paths, listing.labels.tobytes(), contents_digest(encoded), pixels),
        pixels,
    )


def split_folders(config: DataConfig) -> dict[str, Path]:
    """The folder of every split, by its usual name; "train" alone where ROOT holds the classes.

    Raises:
      DataError: there is no such root, or two folders are names of one split.
    """
    root = _root(config)
    children, _ = visible(root)
    folders = [path for path in children if path.is_dir()]
    wanted = {parse_split(config.train_split)[0], *USUAL["train"], *USUAL["val"], *USUAL["test"]}
    named = [path for path in folders if path.name.lower() in wanted]
    # A class may be called "train": a split holds folders.
    splits = [path for path in named if any(entry.is_dir() for entry in visible(path)[0])]
    if not splits and named and len(named) == len(folders):
        raise DataError(f"{named[0]} holds no folders of classes: {LAYOUT}")
    if not splits:
        return {"train": root}
    found: dict[str, Path] = {}
    for path in folders:
        usual = usual_name(path.name)
        if usual in found:
            raise DataError(f"{found[usual]} and {path} are names of one split; keep one")
        found[usual] = path
    return found


def list_split(folder: Path) -> Listing:
    """The classes and files of a split; raises a DataError where there are not at least two."""
    children, ignored = visible(folder)
    for path in children:
        if not path.is_dir():
            raise DataError(f"{path} is in no class: {LAYOUT}; move it there, or out of {folder}")
    if len(children) < 2:
        names = ", ".join(path.name for path in children) or "none"
        raise DataError(f"{folder} should hold the folders of two classes or more, not {names}")
    found = []
    for label, class_folder in enumerate(children):
        files, passed_over = files_below(class_folder)
        ignored += passed_over
        if not files:
            names = ", ".join(path.name for path in children)
            raise DataError(
                f"{class_folder} is empty, but its folder is one of the classes {names}: put its "
                "images there, or delete the folder"
            )
        for rank, path in enumerate(files):
            found.append(((rank + 0.5) / len(files), label, f"{class_folder.name}/{path}"))
    found.sort(key=lambda item: item[:2])
    return Listing(
        folder,
        class_names=tuple(path.name for path in children),
        paths=[path for _, _, path in found],
        labels=np.array([label for _, label, _ in found], np.int32),
        ignored=ignored,
    )


def visible(folder: Path) -> tuple[list[Path], int]:
    """What a folder holds, by name, and the number of entries that nobody means."""
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    meant = [path for path in entries if not _is_junk(path.name)]
    return meant, len(entries) - len(meant)


def files_below(folder: Path) -> tuple[list[str], int]:
    """Files of a class by their paths relative to it, and the number of entries passed over."""
    files, ignored = [], 0
    ancestors = {str(folder): {os.path.realpath(folder)}}
    for where, folders, names in os.walk(folder, followlinks=True):
        seen = ancestors.pop(where)
        for name in list(folders):
            target = os.path.realpath(os.path.join(where, name))
            if _is_junk(name) or target in seen:
                folders.remove(name)
                ignored += 1
            else:
                ancestors[os.path.join(where, name)] = seen | {target}
        relative = os.path.relpath(where, folder)
        for name in names:
            if _is_junk(name):
                ignored += 1
            else:
                files.append(name if relative == "." else f"{relative}/{name}")
    return sorted(files), ignored


def near_names(path: Path) -> str:
    """ ", perhaps …" with what is called much the same in the same place, else nothing."""
    beside = [other.name for other in path.parent.glob("*")]
    near = difflib.get_close_matches(path.name, beside, n=3)
    return f", perhaps {' or '.join(str(path.parent / name) for name in near)}" if near else ""


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise DataError(f"data.name='folder' needs data.root, the folder of the data: {LAYOUT}")
    root = Path(config.root).expanduser()
    root = unpacked(root) if is_archive(root) else root
    if root.is_file():
        raise DataError(
            f"data.root={config.root!r} is a file, neither a folder nor an archive of one; {LAYOUT}"
        )
    if not root.is_dir():
        raise DataError(
            f"data.root={config.root!r}: there is no such folder{near_names(root)}; {LAYOUT}"
        )
    return root


def _folder_of(split: str, folders: dict[str, Path], config: DataConfig) -> Path:
    if usual_name(split) not in folders:
        there = ", ".join(repr(name) for name in folders)
        raise DataError(f"split {split!r} of {config.root}: there is {there}; {LAYOUT}")
    return folders[usual_name(split)]


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK
