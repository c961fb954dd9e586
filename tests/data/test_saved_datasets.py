"""Sets saved by Hugging Face's `datasets`: columns, splits, labels, and what is wrong."""

import io
import json
import os
import pickle
import sys

import numpy as np
import pytest
from data.folders import plain
from PIL import Image

from vit_jax.data import huggingface
from vit_jax.data.catalog import open_source, open_splits, split_names
from vit_jax.data.decode import BadImageError
from vit_jax.data.source import DataConfig, DataError

datasets = pytest.importorskip(
    "datasets", reason="datasets, which saves and opens such sets, is not installed"
)
NAMES = ["wasp", "ant", "bee"]
LABELS = [1, 0, 2, 2, 0, 1]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))


def encoded(number, height=4, width=4, **options):
    """A picture whose red channel is its number."""
    file = io.BytesIO()
    Image.fromarray(plain((number, 0, 0), height, width)).save(file, **{"format": "PNG"} | options)
    return {"bytes": file.getvalue(), "path": None}


def set_of(first=1, labels=LABELS, kind=None, **columns):
    """Pictures numbered from `first` on, of different sizes, and their labels."""
    kind = kind or datasets.ClassLabel(names=NAMES)
    images = [encoded(first + place, 4 + place % 3, 6) for place in range(len(labels))]
    features = {"image": datasets.Image(), "label": kind}
    features |= {name: feature for name, (feature, _) in columns.items()}
    values = {name: values for name, (_, values) in columns.items()}
    contents = {"image": images, "label": labels} | values
    return datasets.Dataset.from_dict(contents, features=datasets.Features(features))


def saved(path, **splits):
    """Save the splits, or, where it is the only one and called `alone`, a set without splits."""
    whole = splits["alone"] if "alone" in splits else datasets.DatasetDict(splits)
    whole.save_to_disk(str(path))
    return path


def config_of(path, **fields):
    fields = {"train_split": "train", "image_size": 4, "test_split": "auto"} | fields
    return DataConfig(name="huggingface", root=str(path), **fields)


def opened(path, split="train", **fields):
    return open_source(config_of(path, **fields), split)


def numbers(source):
    return [int(source[index]["image"][0, 0, 0]) for index in range(len(source))]


def test_splits_go_by_their_usual_names_and_classes_by_theirs(tmp_path):
    path = saved(tmp_path, train=set_of(), validation=set_of(21, [2]), test=set_of(31, [0, 1]))
    config = config_of(path, eval_split="auto")
    assert split_names(config) == ["train", "val", "test"]
    sources = open_splits(config)
    assert {use: numbers(source) for use, source in sources.items()} == {
        "train": [1, 2, 3, 4, 5, 6],
        "eval": [21],
        "test": [31, 32],
    }
    assert [source.labels.tolist() for source in sources.values()] == [LABELS, [2], [0, 1]]
    assert all(source.class_names == tuple(NAMES) for source in sources.values())
    assert sources["train"].labels.dtype == np.int32
    assert sources["train"].name(3) == "train/000003"
    assert numbers(open_source(config, "validation")) == [21]
    part = open_source(config, "train[2:5]")
    assert numbers(part) == [3, 4, 5]
    assert part.name(0) == "train/000002"
    assert numbers(part.take(np.array([2, 0]))) == [5, 3]


def test_a_set_without_splits_is_train(tmp_path):
    config = config_of(saved(tmp_path, alone=set_of()))
    assert split_names(config) == ["train"]
    assert numbers(open_source(config, "train")) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match=r"split 'test' of .*: there is 'train'"):
        open_source(config, "test")


def test_the_pictures_are_decoded_as_all_others_are(tmp_path):
    wide = {"image": [encoded(9, 8, 24, format="JPEG", quality=100)] * 2, "label": [0, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    path = saved(tmp_path, alone=datasets.Dataset.from_dict(wide, features=features))
    boxes = []

    def choose(width, height):
        boxes.append((width, height))
        return 0.0, 0.0, 8.0, 8.0

    source = opened(path, image_size=(2, 3), resize="squash")
    assert source.image(0, choose).shape == (2, 3, 3)
    assert boxes == [(24, 8)]
    with pytest.raises(DataError, match=r"needs data\.image_size"):
        opened(path, image_size=None)


@pytest.mark.parametrize(
    ("labels", "kind", "names", "places"),
    [
        ([5, 2, 2, 0, 0, 2], "int64", ("0", "1", "2", "3", "4", "5"), [5, 2, 2, 0, 0, 2]),
        (["b", "a ", "10", "b", "a", "a"], "string", ("10", "a", "b"), [2, 1, 0, 2, 1, 1]),
        (["1", "0", "02", "1", "1", "1"], "string", ("0", "1", "2"), [1, 0, 2, 1, 1, 1]),
    ],
)
def test_text_and_integers_become_classes(tmp_path, labels, kind, names, places):
    train = set_of(1, labels, datasets.Value(kind))
    path = saved(tmp_path, train=train, test=train.select([1]))
    source = opened(path)
    assert (source.class_names, source.labels.tolist()) == (names, places)
    assert opened(path, "test").labels.tolist() == places[1:2]
    assert opened(path, "test").class_names == names


def test_columns_are_named_where_there_are_several(tmp_path):
    coarse = datasets.ClassLabel(names=["x", "y"])
    other = [encoded(60 + place) for place in range(6)]
    columns = {"coarse": (coarse, [0, 1] * 3), "depth": (datasets.Image(), other)}
    path = saved(tmp_path, alone=set_of(**columns))
    with pytest.raises(
        DataError, match=r"2 Image features \(image, depth\); set data\.image_column"
    ):
        opened(path)
    with pytest.raises(
        DataError, match=r"2 ClassLabel features \(label, coarse\); set data\.label"
    ):
        opened(path, image_column="depth")
    source = opened(path, image_column="depth", label_column="coarse")
    assert numbers(source) == [60, 61, 62, 63, 64, 65]
    assert source.labels.tolist() == [0, 1] * 3
    assert source.class_names == ("x", "y")
    with pytest.raises(DataError, match=r"column 'label' is no Image feature; set data\.image_c"):
        opened(path, image_column="label")
    with pytest.raises(DataError, match=r"has no column 'kind'; its columns are 'image', 'label'"):
        opened(path, image_column="depth", label_column="kind")


def test_a_set_without_images_or_labels_is_refused(tmp_path):
    words = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [0, 1]})
    with pytest.raises(DataError, match=r"0 Image features \(none\)"):
        opened(saved(tmp_path / "words", alone=words))
    path = saved(tmp_path / "bare", alone=set_of().rename_column("label", "y"))
    assert opened(path).labels.tolist() == LABELS  # the only ClassLabel, whatever its name
    plain_labels = set_of(1, LABELS, datasets.Value("int32")).rename_column("label", "y")
    with pytest.raises(DataError, match="has no column label, class, target or category"):
        opened(saved(tmp_path / "plain", alone=plain_labels))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, -1, 1], None, r"row 1: label -1 lies outside the 3 classes, as in splits without"),
        ([0, 1, None], None, r"row 2: the label is missing"),
        (["a", "b", ""], "string", r"row 2: the label is missing"),
        ([0.0, 1.0, 0.5], "float32", r"row 0: label 0\.0 should be text or a whole number"),
        ([True, False, True], "bool", r"row 0: label True should be text or a whole number"),
        ([0, 1, -1], "int64", r"row 2: label -1 is negative"),
        ([], None, r"cannot be read"),  # `datasets` itself opens no empty set
    ],
)
def test_a_row_without_a_proper_label_is_named(tmp_path, labels, kind, message):
    rows = set_of(1, labels, kind and datasets.Value(kind))
    with pytest.raises(DataError, match=message):
        opened(saved(tmp_path, alone=rows))


def test_labels_outside_the_training_splits_are_named(tmp_path):
    splits = {"train": set_of(1, ["a", "b"], datasets.Value("string"))}
    splits["test"] = set_of(1, ["a", "c"], datasets.Value("string"))
    with pytest.raises(DataError, match=r"test, row 1: label 'c' is none of .*: a, b$"):
        opened(saved(tmp_path, **splits), "test")


def test_a_row_that_holds_no_picture_is_bad_and_named(tmp_path):
    images = [encoded(1), {"bytes": b"<html>", "path": None}, None, encoded(4)]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": images, "label": [0, 1, 0, 1]}
    path = saved(tmp_path, alone=datasets.Dataset.from_dict(rows, features=features))
    source = opened(path)
    assert [int(source.image(index)[0, 0, 0]) for index in (0, 3)] == [1, 4]
    with pytest.raises(BadImageError, match=r"train/000001 is not an image \(an HTML page"):
        source.image(1)
    with pytest.raises(BadImageError, match=r"train/000002 cannot be opened \(the row holds no im"):
        source.image(2)


def test_a_path_in_place_of_bytes_is_followed(tmp_path, monkeypatch):
    path = saved(tmp_path / "set", alone=set_of())
    (tmp_path / "set" / "beside.png").write_bytes(encoded(77)["bytes"])
    (tmp_path / "far.png").write_bytes(encoded(88)["bytes"])
    paths = ["beside.png", str(tmp_path / "far.png"), "gone.png", "https://host/x.png", None, ""]
    rows = [{"image": {"bytes": None, "path": name}} for name in paths]
    monkeypatch.setattr(huggingface, "_image_column", lambda *_: rows)
    source = opened(path)
    assert [int(source.image(index)[0, 0, 0]) for index in (0, 1)] == [77, 88]
    for index, reason in enumerate(["No such file"] * 2 + ["the row holds no image"] * 2, start=2):
        with pytest.raises(BadImageError, match=rf"cannot be opened \({reason}"):
            source.image(index)


@pytest.mark.parametrize("form", ["numpy", "pandas"])
def test_a_set_saved_in_another_format_reads_the_same(tmp_path, form):
    path = saved(tmp_path, alone=set_of().with_format(form))
    assert numbers(opened(path)) == [1, 2, 3, 4, 5, 6]
    assert opened(path).labels.tolist() == LABELS


def test_a_set_saved_anew_is_read_anew(tmp_path):
    first = opened(saved(tmp_path / "set", alone=set_of()))
    assert numbers(first) == [1, 2, 3, 4, 5, 6]
    saved(tmp_path / "other", alone=set_of(41))
    (tmp_path / "set").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "set")
    os.utime(tmp_path / "set" / "state.json", ns=(1, 1))
    second = opened(tmp_path / "set")
    assert numbers(second) == [41, 42, 43, 44, 45, 46]
    assert second.fingerprint != first.fingerprint


def test_the_fingerprint_follows_images_labels_and_names(tmp_path):
    relabelled = set_of(1, [0, *LABELS[1:]])
    sets = [
        set_of(),
        set_of(2),
        relabelled,
        set_of(1, LABELS, datasets.ClassLabel(names=NAMES[::-1])),
    ]
    found = [opened(saved(tmp_path / str(n), alone=one)).fingerprint for n, one in enumerate(sets)]
    found.append(opened(tmp_path / "0", image_size=5).fingerprint)
    assert len(set(found)) == len(found)
    assert opened(tmp_path / "0").fingerprint == found[0]


def test_a_folder_that_is_no_saved_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"needs data\.root"):
        open_source(DataConfig(name="huggingface", image_size=4), "train")
    with pytest.raises(DataError, match=r"holds no saved set: .*save_to_disk"):
        opened(tmp_path)
    path = saved(tmp_path / "set", train=set_of(), test=set_of())
    (arrow,) = (path / "train").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match=r"set/train cannot be read \(.*\): save the set again"):
        opened(path)
    (path / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_dict\.json cannot be read"):
        opened(path)


def test_two_names_of_one_split_are_refused(tmp_path):
    path = saved(tmp_path, train=set_of(), val=set_of(), validation=set_of())
    with pytest.raises(DataError, match=r"val and .*validation are names of one split"):
        opened(path)


def test_without_datasets_the_line_that_installs_it_is_shown(tmp_path, monkeypatch):
    path = saved(tmp_path, alone=set_of())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        opened(path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_progress_bar_is_drawn_on_a_terminal(tmp_path, monkeypatch):
    """`datasets` draws one while it opens more than 16 files."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.StringIO())
        many = set_of(1, LABELS * 4)
        many.save_to_disk(str(tmp_path), num_shards=20)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    source = opened(tmp_path)
    assert numbers(source) == list(range(1, 25))
    assert screen.getvalue() == ""
    # What others do with `datasets` is left as it was.
    assert not datasets.are_progress_bars_disabled()
    datasets.load_from_disk(str(tmp_path))
    assert "Loading dataset from disk" in screen.getvalue()


def test_ten_thousand_rows_are_sent_as_their_places(tmp_path):
    rows = {"image": [encoded(7)] * 10_000, "label": list(np.arange(10_000) % 3)}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    path = saved(tmp_path, train=datasets.Dataset.from_dict(rows, features=features))
    source = opened(path)
    assert source.image(9_999)[0, 0, 0] == 7  # what is open by now is not sent along
    sent = pickle.dumps(source)
    assert len(sent) < 1_000_000
    again = pickle.loads(sent)  # noqa: S301
    assert again[9_998]["label"] == 9_998 % 3
    assert again.name(9_998) == "train/009998"
    assert again.image(3)[0, 0, 0] == 7


def test_labels_of_rows_that_were_picked_stay_with_their_images(tmp_path):
    picked = set_of().select([4, 2, 0])  # an index over the rows, not the rows themselves
    path = saved(tmp_path, alone=picked)
    assert json.loads((path / "state.json").read_text())["_data_files"]
    assert numbers(opened(path)) == [5, 3, 1]
    assert opened(path).labels.tolist() == [LABELS[4], LABELS[2], LABELS[0]]
