"""What a check of a data set has found, and how people read it."""

import dataclasses
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WIDTH = 100
"""Columns of the text."""
LINES = 40
"""Lines of the text: names are left out until it has no more, as far as that goes."""
SPLITS = 5
"""Splits in the table of the text."""
NAMES = 10
"""Names per finding in the text; the JSON has all."""
NAME_LINES = 3
"""Lines for one name; hundreds of copies of one image are one name."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something worth knowing, and the files, classes or values it is about."""

    text: str
    names: tuple[str, ...] = ()
    """Files are named from the root of the data on."""


@dataclasses.dataclass
class Findings:
    """What is found, in the order in which it is; the same text again is not added."""

    problems: list[Finding] = dataclasses.field(default_factory=list)
    """A training run would fail."""
    warnings: list[Finding] = dataclasses.field(default_factory=list)
    """A training run would work, but perhaps not as meant."""
    notes: list[Finding] = dataclasses.field(default_factory=list)
    """What is done with unusual files."""

    def problem(self, text: str, names: Iterable[str] = ()) -> None:
        self._add(self.problems, text, names)

    def warning(self, text: str, names: Iterable[str] = ()) -> None:
        self._add(self.warnings, text, names)

    def note(self, text: str, names: Iterable[str] = ()) -> None:
        self._add(self.notes, text, names)

    def _add(self, kind: list[Finding], text: str, names: Iterable[str]) -> None:
        finding = Finding(text, tuple(sorted(names)))
        if finding not in kind:
            kind.append(finding)


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """What a split holds."""

    examples: int
    classes: dict[str, int]
    """Examples of each class, in the order of their labels."""
    looked_at: int = 0
    """Images that were read."""
    width: tuple[int, int, int] | None = None
    """Pixels: the least, the median and the greatest; None for images in memory."""
    height: tuple[int, int, int] | None = None
    formats: dict[str, int] = dataclasses.field(default_factory=dict)
    """Images by the format of their content, such as JPEG, the most frequent first."""
    modes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Images by Pillow's mode, such as RGB, the most frequent first."""
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    """Reasons by file."""
    ignored: int = 0
    """Hidden files and the like, which count as nothing."""


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What `check_data` has found."""

    data: str
    """data.name"""
    root: str | None
    full: bool
    """Every image was decoded; else up to 1,024 headers per split were read."""
    splits: dict[str, SplitFacts]
    held_out: dict[str, int] | None
    """Training examples of each class that would be held out for evaluation; None: none."""
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def can_train(self) -> bool:
        return not self.problems

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)


def report_text(report: DataReport) -> str:
    """The report for people, with as many names as fit on a screen; the reasons to fail last."""
    for names in ((NAMES, NAMES), (7, 5), (5, 3), (3, 2), (3, 1), (2, 1), (1, 0), (0, 0)):
        lines = _lines(report, *names)
        if len(lines) <= LINES:
            break
    return "\n".join(lines)


def log_lines(report: DataReport) -> list[str]:
    """A few lines for the log of a training run."""
    counts = []
    for name, facts in report.splits.items():
        counts.append(f"{name} {number(facts.examples, 'image')} {_per_class(facts)}")
    lines = [f"data: {', '.join(counts)}"] if counts else []
    for kind, findings in (("problem", report.problems), ("warning", report.warnings)):
        for finding in findings:
            names = f": {_names(finding.names, 3, '; ')}" if finding.names else ""
            lines.append(f"data {kind}: {finding.text}{names}")
    return lines


def number(count: int, thing: str) -> str:
    """ "1 image", "1,234 images", "2 classes"."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def _lines(report: DataReport, reasons: int, others: int) -> list[str]:
    """The text with so many names for each reason to fail, and for each other finding."""
    lines = []
    if report.splits:
        lines = [_title(report), *([report.root] if report.root else [])]
        lines += ["", *_table(report, max(reasons, 3)), *_facts(report)]
    for title, findings in (("Notes", report.notes), ("Warnings", report.warnings)):
        lines += _section(title, findings, others)
    verdict = "A training run would fail" if report.problems else "Nothing keeps it from training."
    lines += _section(verdict, report.problems, reasons) or ["", verdict]
    return lines[1:] if lines[0] == "" else lines


def _title(report: DataReport) -> str:
    examples = sum(facts.examples for facts in report.splits.values())
    classes = {name for facts in report.splits.values() for name in facts.classes}
    name = Path(report.root).name if report.root else report.data
    sizes = f"{number(examples, 'image')}, {number(len(classes), 'class')}"
    return f"{name}: {sizes}, {number(len(report.splits), 'split')}"


def _table(report: DataReport, rows: int) -> list[str]:
    """Examples of each class, a column per split."""
    splits = list(report.splits.items())
    columns = {name: facts.classes for name, facts in splits[:SPLITS]}
    if report.held_out is not None:
        columns["held out of train"] = report.held_out
    classes = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    shown = classes if len(classes) <= rows else classes[: rows - 1]
    first = min(40, max(map(len, (*shown, "all classes")), default=0)) + 2
    lines = [_row("", [*columns], columns, first)]
    for name in shown:
        counts = [counts.get(name, "-") for counts in columns.values()]
        lines.append(_row(_shortened(name), counts, columns, first))
    if len(classes) > len(shown):
        lines.append(f"… and {number(len(classes) - len(shown), 'more class')}")
    totals = [sum(counts.values()) for counts in columns.values()]
    lines.append(_row("all classes", totals, columns, first))
    if len(splits) > SPLITS:
        others = _names([name for name, _ in splits[SPLITS:]], 3, ", ")
        lines.append(f"… and {number(len(splits) - SPLITS, 'more split')}: {others}")
    return lines


def _row(title: str, values: Iterable[int | str], columns: Iterable[str], first: int) -> str:
    cells = []
    for value, name in zip(values, columns, strict=True):
        text = value if isinstance(value, str) else f"{value:,}"
        cells.append(f"{text:>{max(8, len(name) + 2)}}")
    return f"{title:<{first}}{''.join(cells)}"


def _facts(report: DataReport) -> list[str]:
    """Sizes, formats and modes, a line each, over all splits."""
    splits = [facts for facts in report.splits.values() if facts.width and facts.height]
    if not splits:
        return []
    lines = [""]
    for title, ranges in (
        ("width", [facts.width for facts in splits if facts.width]),
        ("height", [facts.height for facts in splits if facts.height]),
    ):
        low, high = min(low for low, _, _ in ranges), max(high for _, _, high in ranges)
        medians = " / ".join(dict.fromkeys(f"{median:,}" for _, median, _ in ranges))
        span = f"{low:,} to {high:,} pixels, median {medians}" if low < high else f"{low:,} pixels"
        lines.append(f"{title:<9}{span}")
    for title in ("formats", "modes"):
        counts: dict[str, int] = {}
        for facts in splits:
            for name, count in getattr(facts, title).items():
                counts[name] = counts.get(name, 0) + count
        parts = [f"{count:,} {name}" for name, count in counts.items()]
        lines.append(f"{title:<9}{_names(parts, NAMES, ', ')}")
    if not report.full:
        looked_at = sum(facts.looked_at for facts in splits)
        lines.append(f"{'':<9}by the headers of {number(looked_at, 'image')}")
    return lines


def _section(title: str, findings: Iterable[Finding], names: int) -> list[str]:
    lines = ["", f"{title}:"]
    for finding in findings:
        after = ":" if names else " (named by --json)"
        text = finding.text + (after if finding.names else "")
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", **_WRAP)
        for name in _first(finding.names, names) if names else ():
            lines += textwrap.wrap(
                name,
                WIDTH,
                initial_indent="    ",
                subsequent_indent="      ",
                max_lines=NAME_LINES,
                placeholder=" …",
                **_WRAP,
            )
    return lines if len(lines) > 2 else []


_WRAP: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
"""Paths stay whole, to be copied."""


def _first(names: tuple[str, ...] | list[str], limit: int) -> list[str]:
    """The first names, and how many there are besides."""
    if len(names) <= limit:
        return list(names)
    return [*names[:limit], f"… and {len(names) - limit:,} more"]


def _names(names: tuple[str, ...] | list[str], limit: int, separator: str) -> str:
    return separator.join(_first(names, limit))


def _per_class(facts: SplitFacts) -> str:
    counts = facts.classes.values()
    low, high = min(counts, default=0), max(counts, default=0)
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"in {number(len(counts), 'class')} of {each}"


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"
