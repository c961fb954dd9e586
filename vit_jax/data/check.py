"""Looks at a data set before a training run does, and names all that would end or spoil it."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vit_jax.data.check_images import Look, identical, look_at
from vit_jax.data.check_parts import Part, open_parts
from vit_jax.data.check_report import DataReport, Findings, SplitFacts, number
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.splits import hold_out, parse_split, places_of, usual_name

SMALL = 16
"""Pixels on a side, below which a picture has less than one patch of the usual models."""
IMBALANCE = 10
"""Largest to smallest class, above which it is said."""
NEARLY_ALL = 0.95
"""Share of the images whose format makes another format odd."""

Looks = dict[str, dict[int, Look]]
"""By split and index."""
Uses = dict[str, tuple[str, np.ndarray]]
"""By "train", "eval" and "test": the split that is used for it, and the indices in it."""


def check_data(config: DataConfig, full: bool = True) -> DataReport:
    """All splits the data have, whichever of them the config uses.

    Goes on past faults: what `open_splits` and training would refuse one after the other is found
    at once and given in `problems`. Nothing is raised for them, and nothing is written but an
    archive's contents, into the user's cache folder.

    Args:
      full: decode every image and compare their bytes; else read up to 1,024 headers per split.
    """
    findings = Findings()
    parts, root = open_parts(config, full, findings)
    looks = {
        part.name: look_at(part.encoded, part.pixels, full)
        for part in parts
        if part.encoded is not None and len(part.labels)
    }
    names = _Names(parts, root)
    _bad_images(config, parts, looks, names, findings)
    _odd_images(looks, names, findings)
    uses = _uses(config, parts)
    _slices(config, parts, uses, findings)
    if full:
        _duplicates(parts, looks, uses, names, findings)
    _classes(config, parts, findings)
    return DataReport(
        data=config.name,
        root=config.root,
        full=full,
        splits={part.name: _facts(part, looks.get(part.name, {}), names) for part in parts},
        held_out=_held_out(parts, uses),
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
        notes=tuple(findings.notes),
    )


class _Names:
    """What files are called: by their path from the root of the data on."""

    def __init__(self, parts: Sequence[Part], root: Path):
        self._encoded = {part.name: part.encoded for part in parts}
        self._root = f"{root}/"

    def __call__(self, split: str, index: int) -> str:
        encoded = self._encoded[split]
        return str(index) if encoded is None else encoded.name(index).removeprefix(self._root)


def _each(looks: Looks) -> Iterator[tuple[str, int, Look]]:
    for split, found in looks.items():
        for index, look in found.items():
            yield split, index, look


def _bad_images(
    config: DataConfig, parts: Sequence[Part], looks: Looks, names: _Names, findings: Findings
) -> None:
    used = {part.name for part in parts if part.used}
    skipped, refused, unused = [], [], []
    for split, index, look in _each(looks):
        if look.error:
            kind = unused if split not in used else skipped if look.skipped else refused
            kind.append(f"{names(split, index)}: {look.error}")
    if skipped:
        files = number(len(skipped), "unreadable file")
        if config.on_bad_image == "error":
            remedy = "to replace, to remove, or to leave out with data.on_bad_image=skip"
            findings.problem(f"{files} {remedy}", skipped)
        else:
            findings.warning(f"{files}, left out as data.on_bad_image=skip says", skipped)
    if refused:
        findings.problem(f"{number(len(refused), 'file')} that cannot become such pixels", refused)
    if unused:
        findings.warning(f"{number(len(unused), 'unreadable file')} in unused splits", unused)


def _odd_images(looks: Looks, names: _Names, findings: Findings) -> None:
    good = [(split, index, look) for split, index, look in _each(looks) if not look.error]
    formats = collections.Counter(look.format for _, _, look in good)
    usual, count = (formats.most_common(1) or [("", 0)])[0]
    odd = [
        f"{names(split, index)} ({look.format})"
        for split, index, look in good
        if look.format != usual
    ]
    if odd and count >= NEARLY_ALL * len(good):
        what = f"{number(len(odd), 'file')} of another format than the others, which are {usual}"
        findings.warning(what, odd)
    small = [
        f"{names(split, index)} ({look.width} x {look.height})"
        for split, index, look in good
        if min(look.width, look.height) < SMALL
    ]
    if small:
        what = f"{number(len(small), 'image')} below {SMALL} pixels on a side"
        findings.warning(f"{what}: enlarged, they show little", small)
    for fact, text in (
        ("animated", "of several frames or pages: the first is used"),
        ("transparent", "that may be transparent: laid on data.background"),
        ("turned", "turned as their EXIF says"),
        ("misnamed", "of another format than their names say: the content counts"),
    ):
        files = [names(split, index) for split, index, look in good if getattr(look, fact)]
        if files:
            findings.note(f"{number(len(files), 'image')} {text}", files)


def _slices(config: DataConfig, parts: Sequence[Part], uses: Uses, findings: Findings) -> None:
    """Slices of one split that have images in common, or leave some of the training images out."""
    if "train" in uses:
        split = uses["train"][0]
        used = np.unique(np.concatenate([at for name, at in uses.values() if name == split]))
        unused = len(next(part for part in parts if part.name == split).labels) - len(used)
        if unused:
            what = f"{number(unused, 'image')} of {split} would be used for nothing"
            findings.warning(f"{what}: data.train_split={config.train_split!r}")
    for first, second in (("train", "eval"), ("train", "test"), ("eval", "test")):
        if first not in uses or second not in uses or uses[first][0] != uses[second][0]:
            continue
        common = np.intersect1d(uses[first][1], uses[second][1])
        if len(common):
            fields = " and ".join(
                f"data.{use}_split={getattr(config, f'{use}_split')!r}" for use in (first, second)
            )
            why = {"train": "learnt, then evaluated", "eval": "the best checkpoint is theirs too"}
            findings.warning(f"{number(len(common), 'image')} in both {fields}: {why[first]}")


def _duplicates(
    parts: Sequence[Part], looks: Looks, uses: Uses, names: _Names, findings: Findings
) -> None:
    read = [part for part in parts if part.encoded is not None and part.name in looks]
    images = [part.encoded for part in read if part.encoded is not None]
    held = uses["eval"] if _holds_out(uses) else (None, np.array([], int))
    held_out = {(held[0], index) for index in held[1].tolist()}
    across, within, contradicting = [], [], []
    for group in identical(images, [looks[part.name] for part in read]):
        files = sorted((split, names(read[split].name, index)) for split, index in group)
        line = " = ".join(name for _, name in files)
        if len({split for split, _ in group}) > 1:
            across.append(line)
        elif len({(read[split].name, index) in held_out for split, index in group}) > 1:
            within.append(line)
        classes = {read[split].class_names[read[split].labels[index]] for split, index in group}
        if len(classes) > 1:
            contradicting.append(line)
    if across:
        what = f"{number(len(across), 'image')} in more than one split: learnt, then evaluated"
        findings.warning(what, across)
    if within:
        what = f"{number(len(within), 'image')} with a copy among those that would be held out"
        findings.warning(f"{what}: learnt, then evaluated", within)
    if contradicting:
        what = (
            f"{number(len(contradicting), 'image')} in more than one class: byte by byte the same"
        )
        findings.warning(what, contradicting)


def _classes(config: DataConfig, parts: Sequence[Part], findings: Findings) -> None:
    for part in parts:
        there = {name: count for name, count in _counts(part).items() if count}
        missing = [name for name in part.class_names if name not in there]
        # In a folder, an empty class is a problem that the walk has named.
        if missing and config.name != "folder":
            findings.warning(
                f"{part.name} has no example of {number(len(missing), 'class')}", missing
            )
        if there and max(there.values()) > IMBALANCE * min(there.values()):
            least, most = min(there, key=there.__getitem__), max(there, key=there.__getitem__)
            counts = f"{there[most]:,} of {most} but {there[least]:,} of {least}"
            findings.warning(f"{part.name} is imbalanced: {counts}")
    if ignored := sum(part.ignored for part in parts):
        findings.note(f"{ignored:,} hidden or similar entries ignored")


def _counts(part: Part) -> dict[str, int]:
    counts = np.bincount(part.labels, minlength=len(part.class_names))
    return dict(zip(part.class_names, counts.tolist(), strict=True))


def _uses(config: DataConfig, parts: Sequence[Part]) -> Uses:
    """As `open_splits` deals images out; what it would refuse is left out."""
    there = {usual_name(part.name): part for part in parts}
    uses = {}
    for use in ("train", "eval", "test"):
        wanted = getattr(config, f"{use}_split")
        name = {"eval": "val"}.get(use, use) if wanted == "auto" else wanted
        try:
            part = there[usual_name(parse_split(name or "")[0])]
            uses[use] = part.name, np.array(places_of(name, len(part.labels)))
        except (DataError, KeyError):
            continue  # named among the problems already, or not wanted
    if config.eval_split == "auto" and "val" not in there and "train" in uses:
        name, places = uses["train"]
        labels = there[usual_name(name)].labels[places]
        if 0 < config.holdout < 1:
            kept, held = hold_out(labels, config.holdout, config.holdout_seed)
            uses |= {"train": (name, places[kept]), "eval": (name, places[held])}
    return uses


def _holds_out(uses: Uses) -> bool:
    """Whether training images are held out for evaluation."""
    return "train" in uses and "eval" in uses and uses["train"][0] == uses["eval"][0]


def _held_out(parts: Sequence[Part], uses: Uses) -> dict[str, int] | None:
    """Examples by class of what is held out of the training images."""
    if not _holds_out(uses):
        return None
    name, held = uses["eval"]
    part = next(part for part in parts if part.name == name)
    counts = np.bincount(part.labels[held], minlength=len(part.class_names))
    return dict(zip(part.class_names, counts.tolist(), strict=True))


def _facts(part: Part, looks: Mapping[int, Look], names: _Names) -> SplitFacts:
    good = [look for look in looks.values() if not look.error]
    return SplitFacts(
        examples=len(part.labels),
        classes=_counts(part),
        looked_at=len(looks),
        width=_span([look.width for look in good]),
        height=_span([look.height for look in good]),
        formats=dict(collections.Counter(look.format for look in good).most_common()),
        modes=dict(collections.Counter(look.mode for look in good).most_common()),
        unreadable={
            names(part.name, index): look.error for index, look in looks.items() if look.error
        },
        ignored=part.ignored,
    )


def _span(values: list[int]) -> tuple[int, int, int] | None:
    """The least, the median and the greatest."""
    return (min(values), int(np.median(values)), max(values)) if values else None
