"""`vit-jax attention`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.commands.predict import closing_words, say_bad, visible
from vit_jax.ops.attention_maps import Query
from vit_jax.weights.run_folder import Which

if TYPE_CHECKING:
    from vit_jax.inference.attention import Attention


def attention(
    model: str,
    images: list[str],
    /,
    out: Path = Path("attention"),
    query: str | None = None,
    checkpoint: Which | int = "latest",
    raw: bool = True,
) -> int:
    """Draw what a model looks at: a sheet of all layers and heads, and overlays.

    For each image, named after it: a sheet (.png) with the image, the average over layers and
    heads, the rollout, and every layer's heads; average and rollout over the image
    (-average.png, -rollout.png); and the numbers (.npz).

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      images: files, folders (all files below them), quoted patterns such as 'photos/**/*.jpg', or -
        for names on stdin, one a line.
      out: the folder to write to; made where it is not there.
      query: whose attention: class (the class token), mean (all patches on average), or the patch
        at ROW,COLUMN. Default: the class token where the model pools it, else mean.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      raw: also write the numbers, attention weights included.
    """
    from vit_jax.inference.attention import Attention, attention_of
    from vit_jax.inference.images import find_images
    from vit_jax.inference.saved import open_model

    files, wanted = find_images(images), _parse(query)
    saved = open_model(model, checkpoint)
    found = attention_of(saved, files, wanted)
    sources, bad = [files.name(index) for index in range(len(files))], 0
    for source, name, seen in zip(sources, _names(sources), found, strict=True):
        if not isinstance(seen, Attention):
            bad += 1
            say_bad(source, seen.reason)
            continue
        out.mkdir(parents=True, exist_ok=True)
        _write(seen, saved.names, out / name, raw)
        print(f"{visible(source)}{visible(_guess(seen, saved.names))} -> {out / name}.png")
    return closing_words(len(sources), bad)


def _parse(query: str | None) -> Query | None:
    """The query that a word of the command line means."""
    if query is None or query == "class" or query == "mean":
        return query
    row, _, column = query.partition(",")
    if row.strip().isdigit() and column.strip().isdigit():
        return int(row), int(column)
    raise ValueError(f"--query {query}: use class, mean, or ROW,COLUMN of a patch, such as 3,5")


def _names(files: list[str]) -> list[str]:
    """What is written for each file: its name without the ending, each once."""
    taken: set[str] = set()
    names = []
    for file in files:
        path = Path(file)
        tried = [path.stem, path.name, *(f"{path.name}-{i}" for i in range(2, len(files) + 2))]
        names.append(next(name for name in tried if name.lower() not in taken))
        taken.add(names[-1].lower())
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
