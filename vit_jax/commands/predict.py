"""`vit-jax predict`."""

import csv
import difflib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from vit_jax.inference.predict import Prediction
from vit_jax.inference.predict import predict as predictions_of
from vit_jax.weights.run_folder import Which

LINES = 100
"""Of the table on a terminal; the images beyond are counted by class."""
LONGEST_CLASS = 30
"""Characters in the table."""


def predict(
    model: str,
    images: list[str],
    /,
    top: int = 5,
    out: Path | None = None,
    checkpoint: Which | int = "latest",
    batch_size: int = 64,
) -> int:
    """Name what images show, with probabilities.

    On a terminal prints a table, else a line per image: the file, then class and probability of
    each of the top classes, separated by tabs. Exits with 1 if no image could be read.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      images: files, folders (all files below them), quoted patterns such as 'photos/**/*.jpg', or -
        for names on stdin, one a line.
      top: how many classes of each image, most probable first.
      out: write to this new file instead: .csv, one row per image, or .json, with the files that
        could not be read and why.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      batch_size: images computed at a time.
    """
    check_out(out, (".csv", ".json"))
    from vit_jax.inference.images import find_images
    from vit_jax.inference.saved import open_model

    files = find_images(images)
    saved = open_model(model, checkpoint)
    predictions = predictions_of(saved, files, top, batch_size)
    table = out is None and sys.stdout.isatty()
    kept, bad = [], 0
    for prediction in with_progress(predictions, len(files)):
        if prediction.error is not None:
            bad += 1
            say_bad(prediction.file, prediction.error)
        elif out is None and not table:
            print("\t".join(map(visible, _row(prediction))), flush=True)
        if table or out is not None:
            kept.append(prediction)
    if bad < len(files) and out is not None:
        _write(kept, out)
        print(f"{len(files) - bad:,} predictions: {out}")
    elif bad < len(files) and table:
        _show([prediction for prediction in kept if prediction.error is None])
    return closing_words(len(files), bad)


def check_out(out: Path | None, endings: Sequence[str]) -> None:
    """Raise a DataError unless a file can be written there, by its name and its folder."""
    from vit_jax.data.folder import near_names
    from vit_jax.data.source import DataError

    if out is None:
        return
    if out.suffix.lower() not in endings:
        near = difflib.get_close_matches(out.suffix, endings, n=1)
        hint = f"; perhaps {out.with_suffix(near[0]).name}" if near and out.suffix else ""
        raise DataError(f"--out {out}: should end in {' or '.join(endings)}{hint}")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.parent}{near_names(out.parent)}")
    if out.is_file():
        raise DataError(f"--out {out}: is there already; name another file")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        why = "is a folder" if out.is_dir() else "lies in a folder that cannot be written to"
        raise DataError(f"--out {out}: {why}")


def with_progress(results: Iterable[Any], number: int) -> Iterable[Any]:
    """The results, with a bar on stderr while they come where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    quiet = not sys.stderr.isatty()
    # What is printed to stdout may go into a file, and must not turn into messages on stderr.
    bar = Progress(
        console=Console(stderr=True), transient=True, redirect_stdout=False, disable=quiet
    )
    with bar:
        yield from bar.track(results, number, description="images")


def say_bad(file: str, reason: str) -> None:
    print(f"{visible(file)} {visible(reason)}: skipped", file=sys.stderr)


def closing_words(number: int, bad: int) -> int:
    """Say on stderr how many images of a number could not be read; the exit code."""
    if bad == number:
        print(f"Error: none of the {number:,} images could be read", file=sys.stderr)
        return 1
    if bad:
        print(f"{bad:,} of {number:,} images could not be read", file=sys.stderr)
    return 0


def visible(text: str) -> str:
    """Text in a line of its own on any screen: \\t, \\n, \\x1b, \\udcff for what cannot be seen."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def shortened(text: str, longest: int) -> str:
    """Text with … for its middle where it is too long; more is left of the end, as files differ."""
    if len(text) <= longest:
        return text
    begin = (longest - 1) // 3
    return f"{text[:begin]}…{text[len(text) - (longest - 1 - begin) :]}"


def _row(prediction: Prediction) -> list[str]:
    """File, class, probability, class, …; the probabilities as they are, to the last digit."""
    pairs = zip(prediction.classes, map(repr, prediction.probabilities), strict=True)
    return [prediction.file, *(text for pair in pairs for text in pair)]


def _write(predictions: Sequence[Prediction], out: Path) -> None:
    """Write them as the name of the file says, whole or not at all; at least one was readable."""
    from vit_jax.data.cache import whole_file
    from vit_jax.data.source import DataError

    try:
        # A name that is no text in UTF-8 keeps its bytes.
        with whole_file(out) as path, _opened(path) as file:
            if out.suffix.lower() == ".json":
                file.write(json.dumps([_plain(each) for each in predictions], indent=1) + "\n")
                return
            read = [each for each in predictions if each.error is None]
            places = range(1, 1 + len(read[0].classes))
            columns = (f"{what}_{place}" for place in places for what in ("class", "probability"))
            csv.writer(file).writerows([["file", *columns], *map(_row, read)])
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written ({error.strerror})") from error


def _opened(path: Path) -> TextIO:
    return open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")


def _plain(prediction: Prediction) -> dict[str, Any]:
    if prediction.error is not None:
        return {"file": prediction.file, "error": prediction.error}
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    found = [{"class": name, "probability": probability} for name, probability in pairs]
    return {"file": prediction.file, "predictions": found}


def _show(predictions: Sequence[Prediction]) -> None:
    """A table on the terminal, and where it would be too long, what there is in all."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    shown = max(1, LINES // len(predictions[0].classes))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("probability", justify="right", no_wrap=True)
    longest_file = max(12, console.width - LONGEST_CLASS - len("probability") - 8)
    for prediction in predictions[:shown]:
        names = [shortened(visible(name), LONGEST_CLASS) for name in prediction.classes]
        percent = [f"{probability:.2%}" for probability in prediction.probabilities]
        table.add_row(
            Text(shortened(visible(_from_here(prediction.file)), longest_file)),
            Text("\n".join(names)),
            Text("\n".join(percent)),
        )
    console.print(table)
    if len(predictions) > 1:
        console.print(_in_all(predictions))
    if len(predictions) > shown:
        console.print(
            f"The first {shown:,} of {len(predictions):,} are shown; --out predictions.csv writes "
            "all of them"
        )


def _in_all(predictions: Sequence[Prediction]) -> str:
    """How many images each class is the most probable one of, the ten commonest."""
    counts = Counter(visible(prediction.classes[0]) for prediction in predictions)
    commonest = [f"{number:,} {name}" for name, number in counts.most_common(10)]
    rest = len(counts) - len(commonest)
    more = f" and {rest:,} more classes" if rest else ""
    return f"{len(predictions):,} images: {', '.join(commonest)}{more}"


def _from_here(file: str) -> str:
    """The path relative to the working folder where the file lies in it."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
