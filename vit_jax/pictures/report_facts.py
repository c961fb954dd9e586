"""What a run folder tells: its files read, its numbers in words, the commands to go on with."""

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any, NamedTuple

IMAGE = "photo.jpg"
"""Stands for an image of the reader's in the commands."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The files of a run folder, each empty where it is missing or cannot be read."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    data: dict[str, Any]
    rows: list[dict[str, Any]]
    """Of metrics.jsonl."""
    log: list[str]
    bad_images: list[str]
    unreadable: list[str]
    """Names of the files that are there and cannot be read."""

    @property
    def status(self) -> str:
        """As in summary.json, which is written when a training ends."""
        return str(self.summary.get("status") or "not ended")

    def last(self, split: str) -> dict[str, Any]:
        """The newest row of a split."""
        return next((row for row in reversed(self.rows) if row["split"] == split), {})


def read_facts(folder: Path) -> RunFacts:
    """Read a run folder; whatever is missing is left empty."""
    unreadable: list[str] = []

    def text_of(name: str) -> str:
        try:
            return (folder / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError:
            unreadable.append(name)
            return ""

    def object_of(name: str) -> dict[str, Any]:
        text = text_of(name)
        try:
            found = json.loads(text) if text else {}
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            unreadable.append(name)
            return {}
        return found

    return RunFacts(
        folder=folder,
        summary=object_of("summary.json"),
        config=object_of("config.json"),
        data=object_of("data.json"),
        rows=_rows(text_of("metrics.jsonl")),
        log=text_of("log.txt").splitlines(),
        bad_images=text_of("bad_images.txt").splitlines(),
        unreadable=unreadable,
    )


def _rows(text: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a line cut short by a kill is left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and number(row.get("epoch")) is not None and "split" in row:
            rows.append(row)
    return rows


def number(value: Any) -> float | None:
    """The value where it is a finite number."""
    # By type, as JSON gives them: a bool is none.
    return value if type(value) in (int, float) and math.isfinite(value) else None


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.25), duration(284.6), duration(7384)
    ('7.2 s', '4 min 45 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def interval(share: float, examples: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of independent examples, both ends in 0..1."""
    z = 1.96
    scale = 1 + z * z / examples
    centre = (share + z * z / (2 * examples)) / scale
    margin = z / scale * math.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    return max(0.0, centre - margin), min(1.0, centre + margin)


class Fact(NamedTuple):
    """One of the numbers at the top of a report."""

    name: str
    value: str
    note: str = ""


def headline(facts: RunFacts) -> list[Fact]:
    """The numbers a reader looks for first, those that are known."""
    found = [*_accuracies(facts), *_losses(facts), *_costs(facts)]
    return [fact for fact in found if fact]


def _accuracies(facts: RunFacts) -> list[Fact | None]:
    summary, last = facts.summary, facts.last("eval")
    key = "accuracy_ema" if "accuracy_ema" in last else "accuracy"
    held_out = number(last.get(key))
    if held_out is None:
        held_out = number(summary.get("eval_accuracy"))
    scores = [(score, row) for row in facts.rows if row["split"] == "eval"
              if (score := number(row.get(key))) is not None]  # fmt: skip
    best, where = max(scores, key=lambda pair: pair[0], default=(None, {}))
    # data.json counts the files, those without a picture among them.
    examples = 0 if facts.bad_images else _part(facts, "eval").get("examples")
    note = _of_images(held_out, number(examples))
    if best is not None and held_out is not None and best > held_out:
        note += f"{'; ' if note else ''}best {best:.2%} after epoch {where['epoch']:.3g}"
    test = number(summary.get("test_accuracy"))
    found = [
        _fact(
            "Test accuracy", test, "{:.2%}", _of_images(test, number(summary.get("test_examples")))
        ),
        _fact("Held-out accuracy", held_out, "{:.2%}", note),
    ]
    for name, value in summary.items():
        if name.startswith("test_accuracy_"):
            views = name.removeprefix("test_accuracy_")
            note = "logits averaged over views of each image"
            found.insert(1, _fact(f"Test accuracy, {views}", number(value), "{:.2%}", note))
    if len(summary.get("class_names") or ()) > 5:
        found.append(
            _fact("Top-5 accuracy", number(summary.get("test_top5_accuracy")), "{:.2%}", "test")
        )
    return found


def _losses(facts: RunFacts) -> list[Fact | None]:
    summary, last = facts.summary, facts.last("eval")
    suffix = "_ema" if "loss_ema" in last else ""
    named = {
        "test": number(summary.get("test_loss")),
        "held out": number(last.get(f"loss{suffix}")),
        "training": number(facts.last("train-epoch").get("loss")),
    }
    losses = [f"{name} {value:.4f}" for name, value in named.items() if value is not None]
    first = next((value for value in named.values() if value is not None), None)
    split, error = "test", number(summary.get("test_calibration_error"))
    if error is None:
        split, error = "held out", number(last.get(f"calibration_error{suffix}"))
    meaning = f"{split}: how far confidence is from accuracy"
    return [
        _fact("Loss", first, "{:.4f}", f"nats; {', '.join(losses)}"),
        _fact("Calibration error", error, "{:.2%}", meaning),
    ]


def _costs(facts: RunFacts) -> list[Fact | None]:
    summary = facts.summary
    steps, batch = number(summary.get("steps")), number(facts.config.get("batch_size"))
    length = (
        "" if steps is None else f"{steps:,} steps" + (f" of {batch:,} images" if batch else "")
    )
    named = {"to_first_step": "to the first step", "input_wait": "waiting for input"}
    named["pictures"] = "drawing pictures"
    parts = [
        f"{duration(value)} {words}"
        for name, words in named.items()
        if (value := number(summary.get(f"seconds_{name}"))) is not None
    ]
    seconds = number(summary.get("seconds_total"))
    parameters = number(summary.get("parameters"))
    flops = number(summary.get("train_flops_per_image"))
    kind, count = summary.get("device_kind"), summary.get("device_count") or 1
    return [
        _fact("Length", number(summary.get("epochs")), "{:.4g} epochs", length),
        _fact(
            "Speed", number(summary.get("train_images_per_second")), "{:,.0f} img/s", "in training"
        ),
        Fact("Time", duration(seconds), ", ".join(parts)) if seconds else None,
        Fact("Parameters", _short(parameters), f"{parameters:,}") if parameters else None,
        Fact("FLOPs", _short(flops), "forward and backward, per image") if flops else None,
        Fact("Device", f"{count} x {kind}") if kind else None,
    ]


def _fact(name: str, value: float | None, form: str, note: str = "") -> Fact | None:
    return None if value is None else Fact(name, form.format(value), note)


def _part(facts: RunFacts, split: str) -> dict[str, Any]:
    found = facts.data.get(split)
    return found if isinstance(found, dict) else {}


def _of_images(share: float | None, examples: float | None) -> str:
    """How many images are right, and how much the share may be off."""
    if share is None or not examples or not 0 <= share <= 1:
        return ""
    low, high = interval(share, int(examples))
    right = f"{round(share * examples):,} of {examples:,} images"
    return f"{right}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _short(value: float) -> str:
    """A large number with three digits and the letter of its thousands.

    >>> _short(5524802), _short(7520949504), _short(950), _short(999999), _short(134986)
    ('5.52 M', '7.52 G', '950', '1.00 M', '135 k')
    """
    letters = ["", " k", " M", " G", " T", " P"]
    while float(f"{value:.3g}") >= 1000 and len(letters) > 1:
        value /= 1000
        letters.pop(0)
    return f"{value:#.3g}".rstrip(".") + letters[0] if letters[0] else f"{value:g}"


class Command(NamedTuple):
    """A command to go on with, and what it does."""

    purpose: str
    line: str
    """Quoted for a shell."""


def next_commands(folder: str | Path) -> list[Command]:
    """What to do with a trained run: evaluate, predict, look inside."""
    run = str(folder)
    if run.startswith("-"):
        run = f"./{run}"  # a name, not a flag
    return [
        Command("Evaluate again", shlex.join(["vit-jax", "evaluate", run])),
        Command("Predict on an image", shlex.join(["vit-jax", "predict", run, IMAGE])),
        Command("See what it looks at", shlex.join(["vit-jax", "attention", run, IMAGE])),
    ]


def resume_command(facts: RunFacts) -> Command | None:
    """How to go on training: to the end, or beyond it; None without a config."""
    if not facts.config:
        return None
    folder = str(facts.folder)
    line = ["python", "train.py", "--config", f"{folder}/config.json", f"--workdir={folder}"]
    if facts.status != "complete":
        return Command("Go on training", shlex.join([*line, "--resume=must"]))
    unit = "epochs" if number(facts.config.get("epochs")) is not None else "steps"
    length = number(facts.config.get(unit))
    if length is None:
        return None
    longer = [*line, "--resume=must", f"--config.{unit}={2 * length:g}"]
    purpose = "Train twice as long, the learning rate on the schedule of that length"
    return Command(purpose, shlex.join(longer))
