"""report.html: what a run gave, in one file that needs no network and reads without its script."""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.pictures.report_curves import curves_html
from vit_jax.pictures.report_facts import (
    RunFacts,
    headline,
    next_commands,
    number,
    read_facts,
    resume_command,
)
from vit_jax.pictures.report_pictures import pictures_html
from vit_jax.pictures.report_style import SCRIPT, STYLE

MOST_ROWS = 200
"""Of a table; of more classes, those with the worst accuracy are listed."""
MOST_LINES = 1000
"""Of the log and of the list of bad images."""


def write_report(folder: Path, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write report.html into a run folder, from its other files; what is missing is left out.

    Args:
      defaults: the config as plain objects at its defaults; with it, the fields that differ from
        them are listed first.

    Returns:
      the file written.
    """
    facts = read_facts(Path(os.path.abspath(folder)))
    path = facts.folder / "report.html"
    temporary = path.with_name(".report.html.tmp")
    temporary.write_text(_page(facts, defaults or {}), encoding="utf-8", errors="replace")
    os.replace(temporary, path)
    return path


def _page(facts: RunFacts, defaults: Mapping[str, Any]) -> str:
    curves = curves_html(facts.rows)
    named = {
        "Curves": _curves(curves),
        "Pictures": pictures_html(facts, skip={"curves.png"} if curves else set()),
        "Classes": _classes(facts),
        "What next": _commands(facts),
        "Config": _config(facts, defaults),
        "Data": _data(facts),
        "Environment": _environment(facts),
        "Log": _log(facts),
    }
    present = {name: body for name, body in named.items() if body}
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in present)
    sections = "".join(
        f'<section id="{_anchor(name)}"><h2>{name}</h2>{body}</section>'
        for name, body in present.items()
    )
    # A page of its own: nothing may be loaded, and no script runs but the one below.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(facts.folder.name)} ({_safe(facts.status)})</title>"
        f"<style>{STYLE}</style></head>\n<body>{_head(facts)}<nav>{links}</nav>"
        f"{_numbers(facts)}{_warnings(facts)}{sections}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _safe(value: object) -> str:
    return html.escape(str(value))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()
) -> str:
    """A table of texts, which are escaped here; the columns `right` hold numbers."""
    right = set(right)
    head = "".join(f"<th>{_safe(text)}</th>" for text in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td dir="auto"{" class=n" if i in right else ""}>{_safe(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scrolls"><table><tr>{head}</tr>{body}</table></div>'


def _head(facts: RunFacts) -> str:
    model, data = facts.config.get("model") or {}, facts.config.get("data") or {}
    words = [f"{name.replace('num_', '')} {model[key]}" for name, key in
             (("width", "width"), ("depth", "depth"), ("heads", "num_heads"),
              ("patch", "patch_size")) if model.get(key) is not None]  # fmt: skip
    parts = [f"ViT of {', '.join(words)}"] if words else []
    if data.get("name"):
        parts.append(f"data: {data['name']}")
    if classes := len(facts.summary.get("class_names") or ()):
        parts.append(f"{classes:,} class{'es' * (classes > 1)}")
    if facts.config.get("pretrained"):
        parts.append(f"started from the weights in {facts.config['pretrained']}")
    if facts.summary.get("weights") == "ema":
        parts.append("results of the averaged weights (EMA)")
    state = "status" if facts.status == "complete" else "status open"
    return (
        f"<h1>{_safe(facts.folder.name)} "
        f'<span class="{state}">{_safe(facts.status)}</span></h1>'
        f'<p class="quiet">{_safe("; ".join(parts))}</p>'
    )


def _numbers(facts: RunFacts) -> str:
    cards = "".join(
        f"<div><dt>{_safe(fact.name)}</dt><dd>{_safe(fact.value)}"
        + (f"<small>{_unbroken(fact.note)}</small>" if fact.note else "")
        + "</dd></div>"
        for fact in headline(facts)
    )
    return f'<dl class="facts">{cards}</dl>' if cards else ""


def _unbroken(text: str) -> str:
    """Escaped, with each unit kept beside its number."""
    return re.sub(r"(\d) (s|min|h|%)(?!\w)", r"\1&nbsp;\2", _safe(text))


def _warnings(facts: RunFacts) -> str:
    """What the log warns of, and files that cannot be read."""
    starts = ("WARNING:", "NOTE:", "data warning:")
    lines = [*dict.fromkeys(line for line in facts.log if line.startswith(starts))]
    lines += [f"{name} cannot be read" for name in facts.unreadable]
    items = "".join(f"<li>{_safe(line)}</li>" for line in lines[:20])
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _curves(drawn: str) -> str:
    if not drawn:
        return ""
    hint = "Point at a curve for its values; drag over a stretch to zoom, double-click to go back."
    return f'<p class="quiet script">{hint}</p>{drawn}'


def _classes(facts: RunFacts) -> str:
    """Test accuracy by class, worst first."""
    by_class = facts.summary.get("test_per_class_accuracy")
    if not isinstance(by_class, dict):
        return ""
    known = [(name, share) for name, value in by_class.items()
             if (share := number(value)) is not None]  # fmt: skip
    if not known:
        return ""
    known.sort(key=lambda pair: pair[1])
    test = facts.data.get("test") or {}
    counts = test.get("classes") if isinstance(test.get("classes"), dict) else {}
    text = "Test accuracy by class, worst first."
    if len(known) > MOST_ROWS:
        text += f" These are the {MOST_ROWS} worst of {len(known):,}."
    if missing := len(by_class) - len(known):
        text += f" {missing:,} without a test image {'is' if missing == 1 else 'are'} left out."
    rows = "".join(
        f'<tr><td dir="auto">{_safe(name)}</td><td class=n>{share:.2%}</td>'
        + (f"<td class=n>{counts[name]:,}</td>" if number(counts.get(name)) else "<td></td>")
        + f'<td class="bar"><span style="width:{100 * share:.2f}%"></span></td></tr>'
        for name, share in known[:MOST_ROWS]
    )
    head = "<tr><th>class</th><th>accuracy</th><th>images</th><th></th></tr>"
    return f'<p>{_safe(text)}</p><div class="scrolls"><table>{head}{rows}</table></div>'


def _commands(facts: RunFacts) -> str:
    """How to go on, each command in a line of its own."""
    commands, note = next_commands(facts.folder), ""
    if resume := resume_command(facts):
        commands.append(resume)
        note = '<p class="quiet">Run train.py from the folder it lies in.</p>'
    blocks = "".join(
        f'<p>{_safe(command.purpose)}:</p><pre class="command">{_safe(command.line)}</pre>'
        for command in commands
    )
    return blocks + note


def _config(facts: RunFacts, defaults: Mapping[str, Any]) -> str:
    if not facts.config:
        return ""
    plain = dict(_items(json.loads(json.dumps(dict(defaults)))))
    changed = [
        (name, json.dumps(value, ensure_ascii=False), json.dumps(plain[name], ensure_ascii=False))
        for name, value in _items(facts.config)
        if name in plain and plain[name] != value
    ]
    table = ""
    if changed:
        table = "<p>What differs from the defaults, or was filled in from the data:</p>"
        table += _table(("field", "here", "default"), changed)
    whole = json.dumps(facts.config, indent=2, ensure_ascii=False)
    return (
        f"{table}<details><summary>All of config.json</summary><pre>{_safe(whole)}</pre></details>"
    )


def _items(plain: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The fields that hold values, by their dotted names."""
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _items(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _data(facts: RunFacts) -> str:
    """What was read of each split, with the fingerprints that a resumed run has to meet again."""
    splits = {name: part for name, part in facts.data.items() if isinstance(part, dict)}
    rows, lists = [], ""
    for name, part in splits.items():
        counts = part.get("classes") if isinstance(part.get("classes"), dict) else {}
        shape = " x ".join(map(str, part.get("image_shape") or ()))
        rows.append(
            [
                name,
                _count(part.get("examples")),
                _per_class(counts),
                f"{shape} {part.get('dtype') or ''}".strip(),
                part.get("feed") or "",
                part.get("fingerprint") or "",
            ]
        )
        if counts and len(counts) <= MOST_ROWS:
            table = _table(("class", "images"), [(k, _count(v)) for k, v in counts.items()], {1})
            title = f"Classes of {name}"
            lists += f"<details><summary>{_safe(title)}</summary>{table}</details>"
    heads = ("split", "images", "per class", "pixels", "feed", "fingerprint")
    text = _table(heads, rows, {1}) + lists if rows else ""
    root = (facts.config.get("data") or {}).get("root")
    if root and text:
        text = f"<p>Read from {_safe(root)}</p>{text}"
    if facts.bad_images:
        files = f"{len(facts.bad_images):,} file{'s' * (len(facts.bad_images) > 1)}"
        text += _lines(f"Left out: {files} without a picture", facts.bad_images)
    return text


def _count(value: Any) -> str:
    return "" if number(value) is None else f"{value:,}"


def _per_class(counts: Mapping[str, Any]) -> str:
    """How many classes, and how even they are: 2 classes of 121 to 124."""
    images = [value for value in counts.values() if number(value) is not None]
    if not images:
        return ""
    least, most = min(images), max(images)
    of = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(images):,} class{'es' * (len(images) > 1)} of {of}"


def _environment(facts: RunFacts) -> str:
    summary = facts.summary
    versions = summary.get("versions") if isinstance(summary.get("versions"), dict) else {}
    rows = [(name, version) for name, version in versions.items()]
    if summary.get("device_kind"):
        rows.append(("device", f"{summary.get('device_count') or 1} x {summary['device_kind']}"))
    return _table(("", "version"), rows) if rows else ""


def _log(facts: RunFacts) -> str:
    return _lines("All of log.txt", facts.log) if facts.log else ""


def _lines(title: str, lines: Sequence[str]) -> str:
    """Lines to fold out, the last ones where they are many."""
    if len(lines) > MOST_LINES:
        title += f" (the last {MOST_LINES:,} lines of {len(lines):,})"
    text = _safe("\n".join(lines[-MOST_LINES:]))
    return f"<details><summary>{_safe(title)}</summary><pre>{text}</pre></details>"
