"""Tables of pictures, written and opened by tests."""

from data.folders import plain, save

from vit_jax.data.catalog import open_source
from vit_jax.data.source import DataConfig

ROWS = [("3.png", "cat"), ("1.png", "dog"), ("2.png", "ant"), ("4.png", "cat")]


def make_pictures(root):
    """Pictures 1.png to 6.png, whose red channel is their number, in pictures/."""
    for number in range(1, 7):
        save(root / "pictures" / f"{number}.png", plain((number, 0, 0)))
    return root


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def csv_of(rows, header="path,label"):
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def config_of(path, **fields):
    fields = {"train_split": "train", "image_size": 4, "image_path": "pictures/{}"} | fields
    return DataConfig(name="csv", root=str(path), **fields)


def opened(path, split="train", **fields):
    return open_source(config_of(path, **fields), split)


def labelled(root, *labels, name="t.csv", **fields):
    """A table of the pictures from 1 on, with these labels."""
    rows = [(f"{number}.png", label) for number, label in enumerate(labels, start=1)]
    return opened(write(root / name, csv_of(rows)), **fields)
