"""The splits of a data set for a check, opened so that one fault does not hide the others."""

import dataclasses
from pathlib import Path

import numpy as np

from vit_jax.data import folder as folders_of_classes
from vit_jax.data.archive import is_archive, unpacked
from vit_jax.data.catalog import open_source, open_splits, split_names
from vit_jax.data.check_report import Findings, number
from vit_jax.data.decode import Pixels
from vit_jax.data.encoded import Encoded, Files, FileSource, pixels_of
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.splits import USUAL, parse_split, usual_name


@dataclasses.dataclass(frozen=True)
class Part:
    """A split as far as it can be read."""

    name: str
    labels: np.ndarray
    class_names: tuple[str, ...]
    encoded: Encoded | None
    """None for images in memory."""
    pixels: Pixels
    used: bool
    """The config trains or evaluates on it: its faults are problems, else warnings."""
    ignored: int = 0


def open_parts(config: DataConfig, full: bool, findings: Findings) -> tuple[list[Part], Path]:
    """All splits the data have, in their usual order, and the folder from which files are named."""
    root, parts = Path(config.root or ".").expanduser(), []
    try:
        if config.name == "folder" and is_archive(root):
            root = unpacked(root)
            config = dataclasses.replace(config, root=str(root))
        parts = (_walked if config.name == "folder" else _opened)(config, findings)
        # What the walk does not know, such as a split that is missing.
        if not findings.problems and (full or config.name != "folder"):
            open_splits(config)
    except DataError as error:
        findings.problem(str(error))
    except OSError as error:
        findings.problem(f"{error.filename} cannot be read ({error.strerror})")
    if not root.is_dir():
        root = root.parent
    usual = list(USUAL)
    place = {part.name: usual.index(part.name) for part in parts if part.name in usual}
    return sorted(parts, key=lambda part: place.get(part.name, len(usual))), root


def _opened(config: DataConfig, findings: Findings) -> list[Part]:
    """The splits of a set that is no folder of images."""
    parts = []
    for name in split_names(config):
        try:
            source = open_source(config, name)
        except DataError as error:
            _add(findings, _is_used(name, config), str(error))
            continue
        encoded = source.encoded if isinstance(source, FileSource) else None
        pixels = source.pixels if isinstance(source, FileSource) else Pixels(1, 1)
        used = _is_used(name, config)
        parts.append(Part(name, source.labels, source.class_names, encoded, pixels, used))
    return parts


def _is_used(split: str, config: DataConfig) -> bool:
    return usual_name(split) in {
        usual_name(parse_split({"auto": default}.get(wanted, wanted))[0])
        for wanted, default in (
            (config.train_split, "train"),
            (config.eval_split, "val"),
            (config.test_split, "test"),
        )
        if wanted
    }


def _add(findings: Findings, used: bool, text: str, names: tuple[str, ...] = ()) -> None:
    (findings.problem if used else findings.warning)(text, names)


def _walked(config: DataConfig, findings: Findings) -> list[Part]:
    """The splits of a folder of images, with all that does not fit their layout."""
    root = Path(config.root or "").expanduser()
    try:
        folders = folders_of_classes.split_folders(config)
    except DataError as error:
        findings.problem(str(error))
        if not config.root or not root.is_dir():
            return []
        children, _ = folders_of_classes.visible(root)
        folders = {path.name: path for path in children if path.is_dir()}
    listings = {
        name: _lenient_listing(folder, root, _is_used(name, config), findings)
        for name, folder in folders.items()
    }
    train_name = usual_name(parse_split(config.train_split)[0])
    train = listings.get(train_name)
    if train is None:
        there = ", ".join(map(repr, folders)) or "nothing"
        findings.problem(f"there is no folder of the split {train_name!r} to train on, but {there}")
    else:
        for name, listing in listings.items():
            _compare(train, listing, root, _is_used(name, config), findings)
    pixels = Pixels(1, 1, max_pixels=config.max_pixels)
    if train is not None and train.paths:
        try:
            pixels = pixels_of(config, Files.of(train.folder, train.paths))
        except DataError as error:
            findings.problem(str(error))
    return [
        Part(
            name,
            listing.labels,
            listing.class_names,
            Files.of(listing.folder, listing.paths),
            pixels,
            _is_used(name, config),
            listing.ignored,
        )
        for name, listing in listings.items()
    ]


def _lenient_listing(
    folder: Path, root: Path, used: bool, findings: Findings
) -> folders_of_classes.Listing:
    """What `list_split` gives, or its best guess with the reasons why that would be an error."""
    children, ignored = folders_of_classes.visible(folder)
    stray = [path for path in children if not path.is_dir()]
    classes = [path for path in children if path.is_dir()]
    if stray:
        names = tuple(_below(root, path) for path in stray)
        what = f"{number(len(stray), 'file')} in no class; {folders_of_classes.LAYOUT}"
        _add(findings, used, what, names)
    if len(classes) < 2:
        names = ", ".join(path.name for path in classes) or "none"
        what = f"{folder} should hold the folders of two classes or more, not {names}"
        _add(findings, used, what)
    found = {path.name: folders_of_classes.files_below(path) for path in classes}
    if empty := tuple(_below(root, path) for path in classes if not found[path.name][0]):
        what = "without any file: put images there, or delete the folder"
        _add(findings, used, f"{number(len(empty), 'folder')} of a class {what}", empty)
    if not stray and not empty and len(classes) >= 2:
        return folders_of_classes.list_split(folder)
    paths = [f"{name}/{path}" for name, (files, _) in found.items() for path in files]
    labels = [label for label, (files, _) in enumerate(found.values()) for _ in files]
    return folders_of_classes.Listing(
        folder,
        tuple(found),
        paths,
        np.array(labels, np.int32),
        ignored + sum(passed_over for _, passed_over in found.values()),
    )


def _compare(
    train: folders_of_classes.Listing,
    other: folders_of_classes.Listing,
    root: Path,
    used: bool,
    findings: Findings,
) -> None:
    """The classes of a split should be those of the training images."""
    names, others = set(train.class_names), set(other.class_names)
    if names == others:
        return
    here, there = _below(root, other.folder), _below(root, train.folder)
    only = [f"{there}/{name}" for name in names - others]
    only += [f"{here}/{name}" for name in others - names]
    what = f"{here} and {there} should hold the same classes; these are in one of them only"
    _add(findings, used, what, tuple(only))


def _below(root: Path, path: Path) -> str:
    return str(path).removeprefix(f"{root}/")
