"""Tables of paths and labels: formats, columns, splits, labels, and rows that are wrong."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from data.folders import plain, save
from data.tables import ROWS, config_of, csv_of, labelled, make_pictures, opened, write

from vit_jax.data import table as table_module
from vit_jax.data.catalog import open_source, open_splits, split_names
from vit_jax.data.decode import BadImageError
from vit_jax.data.source import DataConfig, DataError


@pytest.fixture
def root(tmp_path):
    """See `make_pictures`."""
    return make_pictures(tmp_path)


def numbers(source):
    """The numbers of the pictures, in the source's order."""
    return [int(source[index]["image"][0, 0, 0]) for index in range(len(source))]


FORMATS = {
    "t.csv": csv_of(ROWS),
    "T.CSV": csv_of(ROWS).replace("\n", "\r\n"),
    "bom.csv": "\ufeff" + csv_of(ROWS),
    "quoted.csv": 'label , "Path"\n cat,"3.png"\n"dog", 1.png\nant ,2.png\n\ncat,4.png',
    "t.tsv": csv_of(ROWS).replace(",", "\t"),
    "t.jsonl": "\n\n".join(json.dumps({"Label": label, "path": path}) for path, label in ROWS),
    "bom.jsonl": "\ufeff" + "\n".join(json.dumps({"path": p, "label": x}) for p, x in ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_in_its_order(root, name):
    source = opened(write(root / name, FORMATS[name]))
    assert source.class_names == ("ant", "cat", "dog")
    assert source.labels.tolist() == [1, 2, 0, 1]
    assert source.labels.dtype == np.int32
    assert numbers(source) == [3, 1, 2, 4]
    assert source.name(0) == str(root / "pictures" / "3.png")
    assert source.image_shape == (4, 4, 3)
    assert split_names(config_of(root / name)) == ["train"]


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("ID,Breed", {"label_column": "breed"}),
        ("filename,target", {}),
        ("file,category", {}),
        ("IMAGE,Class", {}),
        ("photo,class", {"image_column": "photo"}),
        ("Path,kind", {"image_column": "path", "label_column": "kind"}),
    ],
)
def test_columns_are_found_in_any_case_or_named(root, header, fields):
    source = opened(write(root / "t.csv", csv_of(ROWS, header)), **fields)
    assert source.labels.tolist() == [1, 2, 0, 1]


def test_the_first_usual_name_counts_not_the_first_column(root):
    text = "id,class,path,label\nx,9,1.png,a\ny,8,2.png,b\n"
    source = opened(write(root / "t.csv", text))
    assert (source.class_names, numbers(source)) == (("a", "b"), [1, 2])


@pytest.mark.parametrize(
    ("header", "fields", "message"),
    [
        ("picture,label", {}, r"no column path, image, file, filename or id; its columns are "),
        ("path,breed", {}, r"no column label, class, target or category.*'path', 'breed': set"),
        ("path,label", {"image_column": "img"}, r"no column 'img'; .*set data\.image_column"),
        ("path,label", {"label_column": "y"}, r"no column 'y'; .*set data\.label_column"),
    ],
)
def test_an_unknown_column_is_answered_with_those_there_are(root, header, fields, message):
    with pytest.raises(DataError, match=message) as error:
        opened(write(root / "t.csv", csv_of(ROWS, header)), **fields)
    assert f"{header.split(',')[0]!r}, {header.split(',')[1]!r}" in str(error.value)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_file_may_be_separated_as_some_countries_do(root, delimiter):
    text = csv_of(ROWS).replace(",", delimiter)
    assert opened(write(root / "t.csv", text)).labels.tolist() == [1, 2, 0, 1]


def test_two_columns_of_one_name_are_refused(root):
    with pytest.raises(DataError, match=r"t\.csv, line 1: two columns are called 'label': rename"):
        opened(write(root / "t.csv", "path,label,label\n1.png,a,b\n2.png,b,a\n"))


def test_dog_breeds(tmp_path):
    """labels.csv with id,breed beside train/ID.jpg, as a Kaggle competition has it."""
    for number, name in enumerate(("000bec", "001513", "001cdf"), start=1):
        save(tmp_path / "train" / f"{name}.jpg", plain((number, 0, 0)))
    write(tmp_path / "labels.csv", "id,breed\n001513,dingo\n000bec,pug\n001cdf,dingo\n")
    write(tmp_path / "sample_submission.csv", "id,pug,dingo\n1,0,0\n")
    source = opened(tmp_path, label_column="breed", image_path="train/{}.jpg")
    assert source.class_names == ("dingo", "pug")
    assert source.labels.tolist() == [0, 1, 0]
    assert numbers(source) == [2, 1, 3]
    config = config_of(tmp_path, label_column="breed", image_path="train/{}.jpg", holdout=0.5)
    assert split_names(config) == ["train"]
    sources = open_splits(dataclasses.replace(config, eval_split="auto", test_split="auto"))
    assert {use: source.labels.tolist() for use, source in sources.items()} in (
        {"train": [0, 1], "eval": [0]},
        {"train": [1, 0], "eval": [0]},
    )


def test_paths_are_filled_in_and_absolute_ones_stay(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "9.png"
    save(elsewhere, plain((9, 0, 0)))
    text = f"path,label\n{elsewhere},a\npictures/2.png,b\n"
    source = opened(write(root / "t.csv", text), image_path="{}")
    assert numbers(source) == [9, 2]
    assert source.name(0) == str(elsewhere)
    rows = [{"id": 1, "label": "a"}, {"id": 2, "label": "b"}]
    file = write(root / "t.jsonl", "\n".join(map(json.dumps, rows)))
    (root / "pictures" / "1.png").rename(root / "pictures" / "0001.png")
    (root / "pictures" / "2.png").rename(root / "pictures" / "0002.png")
    assert numbers(opened(file, image_path="pictures/{:04d}.png")) == [1, 2]


@pytest.mark.parametrize("image_path", ["pictures", "{:04d}.png", "{1}", "{name}", "{", "{}\0"])
def test_an_image_path_that_cannot_be_filled_is_refused(root, image_path):
    with pytest.raises(DataError, match=r"t\.csv, line 2: .*image_path=.*write \{\} where it goes"):
        opened(write(root / "t.csv", csv_of(ROWS)), image_path=image_path)


def test_a_split_column_parts_a_single_file(root):
    text = "path,label,Split\n1.png,a,train\n2.png,b,valid\n3.png,b,Training\n4.png,a,TEST\n"
    config = config_of(write(root / "t.csv", text))
    assert split_names(config) == ["train", "val", "test"]
    found = {split: numbers(open_source(config, split)) for split in ("train", "val", "test")}
    assert found == {"train": [1, 3], "val": [2], "test": [4]}
    assert numbers(open_source(config, "validation")) == [2]
    with pytest.raises(DataError, match=r"split 'fold' of .*: there is 'train', 'val', 'test'"):
        open_source(config, "fold")


def test_a_folder_holds_a_table_a_split(root):
    write(root / "train.csv", csv_of(ROWS))
    write(root / "validation.tsv", "path\tlabel\n5.png\tdog\n")
    write(root / "test.jsonl", '{"path": "6.png", "label": "ant"}\n')
    write(root / "labels.csv", "other,table\n")
    config = config_of(root, eval_split="auto", test_split="auto")
    assert split_names(config) == ["train", "val", "test"]
    sources = open_splits(config)
    assert {use: numbers(source) for use, source in sources.items()} == {
        "train": [3, 1, 2, 4],
        "eval": [5],
        "test": [6],
    }
    # Places among the training split's classes, of which the others have one each.
    assert [sources[use].labels.tolist() for use in ("eval", "test")] == [[2], [0]]
    assert open_source(config, "train[1:3]").labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train.csv", "training.tsv"], r"train\.csv and .*training\.tsv are names of one split"),
        (["labels.csv", "labels.tsv"], r"holds labels\.csv, labels\.tsv; a table is"),
        (["breeds.csv"], r"holds breeds\.csv; a table is"),
        ([], r"holds no table; a table is"),
        (["val.csv"], r"split 'train' of .*: there is 'val'; "),
    ],
)
def test_a_folder_of_other_tables_is_refused(root, files, message):
    for file in files:
        write(root / file, csv_of(ROWS))
    with pytest.raises(DataError, match=message):
        opened(root)


def test_a_missing_root_is_refused(root):
    with pytest.raises(DataError, match=r"needs data\.root"):
        open_source(DataConfig(name="csv", image_size=4), "train")
    with pytest.raises(DataError, match=r"t\.csv': there is no such file or folder; a table is"):
        opened(root / "t.csv")
    with pytest.raises(DataError, match=r"t\.xlsx' has another ending: a table is"):
        opened(write(root / "t.xlsx", csv_of(ROWS)))


@pytest.mark.parametrize(
    ("labels", "names", "places"),
    [
        (["10", "2", "0"], tuple(map(str, range(11))), [10, 2, 0]),
        (["02", "+1", "1 "], ("0", "1", "2"), [2, 1, 1]),
        (["10", "2", "b"], ("10", "2", "b"), [0, 1, 2]),
        (["1.0", "2.0", "1.0"], ("1.0", "2.0"), [0, 1, 0]),
        (["é", "Z", "a"], ("Z", "a", "é"), [2, 0, 1]),
    ],
)
def test_labels_are_numbers_only_if_all_are(root, labels, names, places):
    source = labelled(root, *labels)
    assert source.class_names == names
    assert source.labels.tolist() == places


def test_numbers_in_json_are_labels_and_fractions_are_not(root):
    rows = [{"path": f"{number}.png", "label": number % 3} for number in (1, 2, 3, 4)]
    source = opened(write(root / "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert source.class_names == ("0", "1", "2")
    assert source.labels.tolist() == [1, 2, 0, 1]
    for label in (1.5, True, [1], {"a": 1}):
        rows[2]["label"] = label
        file = write(root / "t.jsonl", "\n".join(map(json.dumps, rows)))
        with pytest.raises(DataError, match=r"t\.jsonl, line 3: label .*text or a whole number"):
            opened(file)


def test_the_training_split_says_which_classes_there_are(root):
    write(root / "train.csv", csv_of([("1.png", "0"), ("2.png", "2")]))
    write(root / "val.csv", csv_of([("3.png", "1"), ("4.png", "02")]))
    assert opened(root).class_names == opened(root, "val").class_names == ("0", "1", "2")
    assert opened(root, "val").labels.tolist() == [1, 2]
    write(root / "val.csv", csv_of([("3.png", "1"), ("4.png", "3")]))
    with pytest.raises(DataError, match=r"val\.csv, line 3: label '3' is none of .*: 0, 1, 2$"):
        opened(root, "val")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,label\n1.png,ä\n".encode("latin-1"), r"t\.csv cannot be read.*as UTF-8"),
        ("t.csv", "", r"line 1: the names of the columns are missing"),
        ("t.csv", "path,label\n", r"t\.csv has no rows"),
        ("t.jsonl", '{"path": "1.png"\n', r"t\.jsonl, line 1: cannot be read"),
        ("t.jsonl", '\n{"path": "1.png", "label": "a"}\n[1]\n', r"line 3: .*should be an object"),
        ("t.jsonl", '{"path": "1.png", "label": null}', r"line 1: the label is missing"),
        ("t.jsonl", '{"path": "1.png", "label": "a"}\n{"label": "a"}', r"line 2: the path is miss"),
        ("t.jsonl", "[" * 100_000, r"t\.jsonl, line 1: cannot be read"),
    ],
    ids=["latin", "empty", "header", "half", "list", "null", "no-path", "deep"],
)
def test_a_file_that_is_no_such_table_is_refused(root, name, content, message):
    with pytest.raises(DataError, match=message):
        opened(write(root / name, content))


def test_a_missing_file_of_a_long_table_shows_when_it_is_read(root, monkeypatch, capsys):
    monkeypatch.setattr(table_module, "CHECKED_ROWS", 3)
    rows = [*ROWS[:2], ("gone.png", "dog"), *ROWS[2:]]
    source = opened(write(root / "t.csv", csv_of(rows)))
    assert "t.csv: 5 rows; missing files will show as they are read" in capsys.readouterr().out
    assert source.take(np.array([1, 4])).name(1).endswith("4.png")
    part = source.take(np.array([2, 0]))
    assert part[1]["image"][0, 0, 0] == 3
    with pytest.raises(BadImageError, match=r"gone\.png cannot be opened.*t\.csv, line 4"):
        part.image(0)


def test_missing_files_are_left_to_those_who_skip_bad_images(root):
    rows = [*ROWS, ("gone.png", "dog")]
    source = opened(write(root / "t.csv", csv_of(rows)), on_bad_image="skip")
    with pytest.raises(BadImageError, match=r"gone\.png cannot be opened"):
        source.image(4)


def test_the_fingerprint_follows_names_labels_and_pixels(root):
    file = root / "t.csv"

    def fingerprint(rows=ROWS, **fields):
        return opened(write(file, csv_of(rows)), **fields).fingerprint

    renamed = [(path, label.replace("cat", "cow")) for path, label in ROWS]
    relabelled = [("3.png", "dog"), *ROWS[1:]]
    found = [fingerprint(), fingerprint(image_size=5), fingerprint(ROWS[::-1])]
    found += [fingerprint(renamed), fingerprint(relabelled)]
    save(root / "pictures" / "3.png", plain((3, 0, 1)))
    found.append(fingerprint())
    assert len(set(found)) == len(found)
    save(root / "pictures" / "3.png", plain((3, 0, 0)))
    assert fingerprint() == found[0]
    file.rename(root / "moved.csv")
    assert opened(root / "moved.csv").fingerprint == found[0]


def test_a_source_of_ten_thousand_rows_is_sent_in_less_than_a_megabyte(root):
    rows = [(f"{number % 6 + 1}.png", f"class {number % 9}") for number in range(10_000)]
    source = opened(write(root / "t.csv", csv_of(rows)))
    sent = pickle.dumps(source)
    assert len(sent) < 1_000_000
    again = pickle.loads(sent)  # noqa: S301
    assert again.fingerprint == source.fingerprint
    assert numbers(again.take(np.array([9_999, 0]))) == [4, 1]
