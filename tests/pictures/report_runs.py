"""A run folder to report on, and a page as its reader finds it."""

import json
from html.parser import HTMLParser

import numpy as np
import PIL.Image

from vit_jax.config import Config, to_json
from vit_jax.pictures.report import write_report

HOSTILE = ["<script>document.body.textContent='gone'</script>", "\"quoted' & <b>more</b> 猫", "eel"]
"""Names of classes that are text, whatever they look like."""
SECTIONS = ["Curves", "Pictures", "Classes", "What next", "Config", "Data", "Environment", "Log"]


class Page(HTMLParser):
    """What a browser would find in a page: its text, its elements; fails where tags do not pair."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.elements, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def sections(self):
        names = {name.lower().replace(" ", "-"): name for name in SECTIONS}
        return [names[attrs["id"]] for attrs in self.all("section")]


def metrics_rows():
    rows = []
    for epoch in (1.0, 2.0, 3.0):
        place = {"step": int(10 * epoch), "epoch": epoch}
        rows.append(place | {"split": "train", "loss": 3 / epoch, "accuracy": 0.2 * epoch})
        rows[-1] |= {"learning_rate": 1e-3 * epoch, "gradient_norm": 4.0}
        rows.append(place | {"split": "train-epoch", "loss": 2 / epoch, "accuracy": 0.25 * epoch})
        held_out = {1.0: 0.5, 2.0: 0.75, 3.0: 0.7}[epoch]
        rows.append(place | {"split": "eval", "loss": 1 / epoch, "accuracy": held_out})
        rows[-1]["calibration_error"] = 0.03
    return rows


def summary_of(names):
    return {
        "status": "complete",
        "steps": 30,
        "epochs": 3.0,
        "parameters": 2771331,
        "train_flops_per_image": 5081351040,
        "train_images_per_second": 13.4,
        "seconds_to_first_step": 14.34,
        "seconds_input_wait": 0.0248,
        "seconds_pictures": 2.5,
        "eval_accuracy": 0.7,
        "test_accuracy": 28 / 60,
        "test_top5_accuracy": 1.0,
        "test_calibration_error": 0.066,
        "test_per_class_accuracy": {names[0]: 0.85, names[1]: 0.1, names[2]: None},
        "test_loss": 0.9961,
        "test_examples": 60,
        "weights": "trained",
        "class_names": names,
        "bad_images": 1,
        "versions": {"vit_jax": "0.1.0", "jax": "0.10.2"},
        "device_kind": "cpu",
        "device_count": 2,
        "seconds_total": 222.3,
    }


def save_picture(path, width=30, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((height, width), 100, np.uint8)).save(path)


def make_run(folder, names=("cat", "dog", "eel")):
    """A run folder with every file that a report reads."""
    names = list(names)
    folder.mkdir()
    counts = {names[0]: 20, names[1]: 40}
    split = {"examples": 60, "classes": counts, "image_shape": [32, 48, 3], "dtype": "uint8"}
    split |= {"feed": "resident", "fingerprint": "4d71017e6012f27e"}
    config = json.loads(to_json(Config(epochs=3, batch_size=16)))
    config["data"]["root"] = f"/data/{names[0]}"
    written = {
        "summary.json": json.dumps(summary_of(names)),
        "config.json": json.dumps(config),
        "data.json": json.dumps({"train": split, "test": split}),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in metrics_rows())
        + 'null\n{"step": 3',
        "log.txt": f"Run folder: x\ndata warning: {names[1]}\nDone\n",
        "bad_images.txt": f"{names[0]}.jpg\tcut short\n",
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("curves.png", "confusion_matrix.png", "zebra.png", "attention.gif"):
        save_picture(folder / "pictures" / name)
    return folder


def page_of(folder, defaults=None):
    path = write_report(folder, defaults)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))
