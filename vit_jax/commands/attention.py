"""`vit-jax attention`."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.commands.predict import closing_words, say_bad, visible
from vit_jax.data.source import DataError
from vit_jax.ops.attention_maps import Query
from vit_jax.weights.run_folder import Which

ENDINGS = (".png", "-average.png", "-rollout.png", ".npz")
"""Of what is written for each image."""

if TYPE_CHECKING:
    from vit_jax.inference.attention import Attention


def attention(
    model: str,
    images: list[str],
    /,
    out: Path | None = None,
    query: str | None = None,
    checkpoint: Which | int = "latest",
    raw: bool = True,
) -> int:
    """Draw what a model looks at: a sheet of all layers and heads, and overlays.

    For each image, named after it: a sheet (.png) with the image, the average over layers and
    heads, the rollout, and every layer's heads; average and rollout over the image
    (-average.png, -rollout.png); and the numbers (.npz, 5 MB for a ViT-Ti/16 at 224 pixels).

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      images: files, folders (all files below them), quoted patterns such as 'photos/**/*.jpg', or -
        for names on stdin, one a line.
      out: the folder to write to; made where it is not there, and nothing in it is written over.
        Default: attention, or the next of attention-2, attention-3, … that is free.
      query: whose attention: class (the class token), mean (all patches on average), or the patch
        at ROW,COLUMN. Default: the class token where the model pools it, else mean.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      raw: also write the numbers, attention weights included.
    """
    from vit_jax.inference.attention import Attention, attention_of
    from vit_jax.inference.images import find_images
    from vit_jax.inference.saved import open_model

    files, wanted = find_images(images), _parse(query)
    sources, bad = [files.name(index) for index in range(len(files))], 0
    out = _fresh_folder() if out is None else out
    names = _names(sources)
    _check_out(out, names)
    saved = open_model(model, checkpoint)
    found = attention_of(saved, files, wanted)
    for source, name, seen in zip(sources, names, found, strict=True):
        if not isinstance(seen, Attention):
            bad += 1
            say_bad(source, seen.reason)
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            _write(seen, saved.names, out / name, raw)
        except OSError as error:
            raise DataError(f"--out {out}: cannot be written ({error.strerror})") from error
        drawn = visible(f"{out / name}.png")
        print(f"{visible(source)}{visible(_guess(seen, saved.names))} -> {drawn}")
    return closing_words(len(sources), bad)


def _fresh_folder() -> Path:
    """attention, or the next of attention-2, attention-3, … that is free."""
    tried = itertools.chain(["attention"], (f"attention-{i}" for i in itertools.count(2)))
    return next(Path(name) for name in tried if not Path(name).exists())


def _check_out(out: Path, names: list[str]) -> None:
    """Raise a DataError where something would be written over, or nothing can be written."""
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out}: is a file; name a folder")
    there = [f"{name}{ending}" for name in names for ending in ENDINGS]
    there = [name for name in there if (out / name).exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise DataError(
            f"--out {out}: {visible(there[0])}{more} would be written over: name another folder"
        )


def _parse(query: str | None) -> Query | None:
    """The query that a word of the command line means."""
    if query is None or query == "class" or query == "mean":
        return query
    row, _, column = query.partition(",")
    if row.strip().isdigit() and column.strip().isdigit():
        return int(row), int(column)
    raise ValueError(f"--query {query}: use class, mean, or ROW,COLUMN of a patch, such as 3,5")


def _names(files: list[str]) -> list[str]:
    """What is written for each file: its name without the ending, unless that is taken."""
    taken: set[str] = set()
    names = []
    for file in files:
        path = Path(file)
        tried = [path.stem, path.name, *(f"{path.name}-{i}" for i in range(2, len(files) + 2))]
        free = (name for name in tried if taken.isdisjoint(f"{name}{e}".lower() for e in ENDINGS))
        names.append(next(free))
        taken |= {f"{names[-1]}{ending}".lower() for ending in ENDINGS}
    return names


def _write(seen: "Attention", class_names: tuple[str, ...], path: Path, raw: bool) -> None:
    """The pictures and numbers of an image; `path` without an ending."""
    from vit_jax.data.cache import whole_file
    from vit_jax.pictures.attention import draw_attention, draw_overlay

    title = f"{Path(seen.name).name}{_guess(seen, class_names)}"
    draw_attention(seen.image, seen.maps, seen.average, seen.rollout, f"{path}.png", title=title)
    draw_overlay(seen.picture, seen.average, f"{path}-average.png")
    draw_overlay(seen.picture, seen.rollout, f"{path}-rollout.png")
    if not raw:
        return
    arrays: dict[str, Any] = {
        "image": seen.image,
        "weights": seen.weights,
        "maps": seen.maps,
        "average": seen.average,
        "rollout": seen.rollout,
    }
    if seen.probabilities is not None:
        arrays |= {"probabilities": seen.probabilities, "class_names": np.array(class_names)}
    with whole_file(Path(f"{path}.npz")) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def _guess(seen: "Attention", class_names: tuple[str, ...]) -> str:
    """The most probable class; nothing without a head."""
    if seen.probabilities is None:
        return ""
    best = int(seen.probabilities.argmax())
    return f": {class_names[best]} ({seen.probabilities[best]:.0%})"
