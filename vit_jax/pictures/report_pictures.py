"""The pictures of a report: inlined, in a sensible order, each with how to read it."""

import base64
import html
import re
import struct
from collections.abc import Set
from pathlib import Path

from vit_jax.pictures.report_facts import RunFacts

MOST_OF_A_FOLDER = 6
"""Pictures shown of a folder inside pictures/."""

# By name, in the order of the report; a name that ends in / stands for the pictures of a folder.
CAPTIONS = {
    "curves.png": "Loss, accuracy and learning rate over the training: the held-out curve should "
    "follow the training's; where it turns away, the model is learning the images by heart.",
    "confusion_matrix.png": "Rows are the labels of the {split} images, columns what the model "
    "predicts, in per cent of the row: all on the diagonal would be perfect.",
    "per_class.png": "Share of each class's {split} images that are predicted right: a class far "
    "below the others has too few images, or looks like another one.",
    "predictions.png": "The first held-out batch: what the model says and how sure it is, with the "
    "label where it is wrong.",
    "mistakes.png": "Those the model is most sure of: look here for wrong labels, and for what the "
    "model takes for something else.",
    "batch.png": "A training batch as the model sees it, augmentation and mixed labels included: "
    "a person should still be able to name these images.",
    "patches.png": "One image cut into the patches that become tokens, in reading order.",
    "attention.gif": "As the training goes on: bright patches are those the class token "
    "(or the mean of all tokens) draws on.",
    "attention/": "Of one or more images: bright patches are those the class token (or the mean "
    "of all tokens) draws on.",
    "positions.png": "Similarity of each position embedding with all others: neighbours should be "
    "alike, in rows and columns (figure 7 of the paper).",
    "filters.png": "Principal components of the patch embedding's filters: edges and colours once "
    "trained, noise before.",
}


def pictures_html(facts: RunFacts, skip: Set[str] = frozenset()) -> str:
    """The PNG and GIF files below pictures/, but for those to skip, in the order of CAPTIONS."""
    top = facts.folder / "pictures"
    # Hidden ones are halves, left by a kill.
    files = [path for path in top.rglob("[!.]*") if path.is_file()]
    names = [path.relative_to(top).as_posix() for path in files]
    names = [name for name in names if name.lower().endswith((".png", ".gif")) and name not in skip]
    order = list(CAPTIONS)
    groups: dict[tuple[int, str], list[str]] = {}
    for name in sorted(names, key=_natural):
        folder, _, _ = name.rpartition("/")
        key = name if name in CAPTIONS else f"{folder}/" if folder else ""
        place = order.index(key) if key in CAPTIONS else len(order)
        groups.setdefault((place, key), []).append(name)
    split = "test" if facts.summary.get("test_examples") else "held-out"
    parts = []
    for (_, key), group in sorted(groups.items(), key=lambda item: item[0]):
        caption = CAPTIONS.get(key, "").format(split=split)
        chosen = _spread(group) if key.endswith("/") else group
        for name in chosen:
            figure = _figure(top / name, name, caption)
            parts.append(figure)
            caption = "" if figure else caption  # said once, under the first
        if len(chosen) < len(group):
            text = f"{len(chosen)} of the {len(group)} pictures in pictures/{key} are shown."
            parts.append(f"<p>{html.escape(text)}</p>")
    figures = "".join(parts)
    return f'<div class="pictures">{figures}</div>' if figures else ""


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts epoch_2 before epoch_10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _spread(names: list[str], most: int = MOST_OF_A_FOLDER) -> list[str]:
    """At most so many, evenly from the first to the last."""
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def _figure(path: Path, name: str, caption: str) -> str:
    """A picture with its caption; empty where the file is not what its name says."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        kind, (width, height) = "png", struct.unpack(">II", content[16:24])
    elif content[:4] == b"GIF8" and len(content) >= 10:
        kind, (width, height) = "gif", struct.unpack("<HH", content[6:10])
    else:
        return ""
    title = path.stem.replace("_", " ")
    encoded = base64.b64encode(content).decode()
    return (
        f"<figure><figcaption><b>{html.escape(title[:1].upper() + title[1:])}</b> "
        f"{html.escape(caption)} <small>{html.escape(f'pictures/{name}')}</small></figcaption>"
        f'<img alt="{html.escape(caption or title)}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{encoded}"></figure>'
    )
