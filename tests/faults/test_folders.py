"""Folders and tables that are not as they should be, rows D12 to D16 and D20."""

import json
import shutil

import jax
import pytest
from data.folders import RED, make_folder, opened, plain, save
from data.sound_folder import check, make_sound, named, picture
from data.tables import ROWS, csv_of, labelled, make_pictures, write
from data.tables import opened as opened_table
from faults.small_training import COLOURS, make_colours, train_on

from vit_jax.cli import main
from vit_jax.data.folder import list_split
from vit_jax.data.source import DataError
from vit_jax.inference import images as image_module
from vit_jax.train import setup
from vit_jax.weights.run_folder import load_run


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


@pytest.mark.fault(
    "Folders hold what systems leave behind, and links that lead back to where they are",
    "All of it is passed over and counted",
)
def test_d12_what_systems_leave_behind_is_passed_over_and_counted(root):
    before = opened(root).fingerprint
    for name in ("a/.DS_Store", "a/._1.jpg", "b/Thumbs.db", "b/desktop.ini", ".thumbs/1.png"):
        save(root / "train" / name, b"nothing")
    (root / "train" / "b" / "again").symlink_to(root / "train" / "b")  # a loop
    (root / "train" / "b" / "above").symlink_to(root / "train")  # a longer one
    source = opened(root)
    # "above" leads to class a as well, whose files are then b's too: links are followed.
    names = [source.name(i) for i in range(len(source))]
    assert not [name for name in names if name.endswith(("DS_Store", "._1.jpg", "Thumbs.db"))]
    assert not [name for name in names if "/again/" in name]
    (root / "train" / "b" / "above").unlink()
    assert opened(root).fingerprint == before
    assert list_split(root / "train").ignored == 6
    assert "6 hidden or similar entries ignored" in [note.text for note in check(root).notes]


@pytest.mark.fault(
    "A class is empty, the only one, or in one split alone, or pictures lie in no class",
    "The classes, or the file and where it should lie, are named",
)
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("train/c/.keep", r"train/c is empty, but its folder is one of the classes a, b, c: put"),
        ("one/a/1.png", r"one should hold the folders of two classes or more, not a"),
        ("val/a/1.png val/c/1.png", r"same classes: only the first has \['c'\], .*\['b'\]"),
        ("train/loose.png", r"train/loose\.png is in no class: .*ROOT/SPLIT/CLASS/FILE"),
    ],
    ids=["empty", "one", "others", "loose"],
)
def test_d13_folders_that_are_no_classes_are_named(root, entries, message):
    for name in entries.split():
        save(root / name, plain(RED))
    with pytest.raises(DataError, match=message):
        opened(root, entries.partition("/")[0])


@pytest.mark.fault(
    "Pictures lie in the root or in its splits, without folders of classes",
    "The layout that is expected is shown",
)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("1.png", "2.png"),
            r"/1\.png is in no class: .*ROOT/SPLIT/CLASS/FILE, such as ROOT",
        ),
        (("train/1.png", "val/1.png"), r"/train holds no folders of classes: .*ROOT/SPLIT/CLASS"),
    ],
    ids=["root", "splits"],
)
def test_d13_without_folders_of_classes_the_layout_is_shown(tmp_path, names, message):
    for name in names:
        save(tmp_path / name, plain(RED))
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


@pytest.mark.fault(
    "A command is given a folder with an empty class and other classes to validate on",
    "Checking finds all of it at once and exits with 1, training ends with 2 and the first of it",
)
def test_d13_the_command_line_says_it_in_one_message(root, capsys, tmp_path):
    for name in ("train/c/.keep", "val/a/1.png", "val/d/1.png"):
        save(root / name, plain(RED))
    assert main(["data", "check", str(root)]) == 1
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())  # wherever the lines break
    assert "1 folder of a class without any file" in said
    assert "train/c" in said
    assert "val and train should hold the same classes" in said
    assert train_on(root, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    named_classes = f"{root}/train/c is empty, but its folder is one of the classes a, b, c"
    assert f"{named_classes}: put its images there, or delete the folder" in error
    assert "Traceback" not in captured.out + captured.err + error
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    "The training images are gone, and other folders stand in their place",
    "Predictions have the classes of the checkpoint, in its order",
)
def test_d14_the_order_of_classes_is_kept_and_used(tmp_path, capsys, monkeypatch):
    for module in (setup, image_module):
        monkeypatch.setattr(module, "select_devices", lambda device: jax.local_devices()[:1])
    root, run = make_colours(tmp_path / "data"), tmp_path / "run"
    assert train_on(root, run, steps=16) == 0
    # The names of the classes are part of the checkpoint itself.
    assert load_run(run).class_names == tuple(COLOURS) == ("10", "9", "B", "a")
    shutil.move(root / "train", tmp_path / "photos")
    for name in ("0", "1", "2", "3"):
        save(root / "train" / name / "1.png", plain(RED))
    capsys.readouterr()
    photos = [str(tmp_path / "photos" / name / "2.png") for name in COLOURS]
    assert main(["predict", str(run), *photos, "--top=1"]) == 0
    lines = [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [list(pair) for pair in zip(photos, COLOURS, strict=True)]


@pytest.mark.fault(
    "The same picture lies in train and val, or in two classes",
    "vit-jax data check warns with both names",
)
@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("val/a/y.png", "1 image in more than one split"),
        ("train/b/y.png", "1 image in more than one class"),
    ],
    ids=["splits", "classes"],
)
def test_d15_copies_are_warned_of(tmp_path, other, text):
    root = make_sound(tmp_path / "set")
    for name in ("train/a/x.png", other):
        save(root / name, plain(9, 20, 20))
    report = check(root)
    assert named(report.warnings, text) == [f"train/a/x.png = {other}"]
    assert report.can_train


@pytest.mark.fault(
    "The largest class is ten times the smallest, and a little more",
    "vit-jax data check says so of the second with both numbers",
)
@pytest.mark.parametrize("size", [100, 101])
def test_d15_heavy_imbalance_is_warned_of(tmp_path, size):
    root = make_sound(tmp_path / "set")
    for number in range(12, size):
        save(root / "train" / "a" / f"{number}.png", picture(1000 + number))
    texts = [finding.text for finding in check(root).warnings]
    assert texts == ([f"train is imbalanced: {size} of a but 10 of b"] if size > 100 else [])


WRONG_ROWS = {
    "3.png,": r"t\.csv, line 6: the label is missing",
    "3.png, ": r"t\.csv, line 6: the label is missing",
    ",cat": r"t\.csv, line 6: the path is missing",
    "3.png": r"t\.csv, line 6: 1 fields, but there are 2 columns",
    "3.png,cat,": r"t\.csv, line 6: 3 fields, but there are 2 columns",
    "7.png,cat": r"t\.csv, line 6: there is no file .*pictures/7\.png",
    '"7\n.png",cat': r"t\.csv, line 6: there is no file .*pictures/7",
    ".,cat": r"t\.csv, line 6: there is no file .*pictures/\.",
    '"3.png,cat': r"t\.csv, line 6: cannot be read \(unexpected end of data",
}


@pytest.mark.fault(
    "A row of a table lacks its label or its path, or names a file that is not there",
    "The table and the line of the row are named",
)
def test_d16_a_row_that_is_wrong_is_named_by_its_line(tmp_path):
    root = make_pictures(tmp_path)
    head = 'path,label\n1.png,cat\n\n"2.png","a\nb"\n'
    for row, message in WRONG_ROWS.items():
        with pytest.raises(DataError, match=message):
            opened_table(write(root / "t.csv", head + row))
    source = opened_table(write(root / "t.csv", head + "3.png,cat"))
    assert source.class_names == ("a\nb", "cat")


@pytest.mark.fault(
    "A label of a table is negative, far above the others, or unknown to the training split",
    "The line is named, with the classes that there are",
)
def test_d16_labels_that_are_no_classes_are_named(tmp_path):
    root = make_pictures(tmp_path)
    with pytest.raises(DataError, match=r"t\.csv, line 3: label -1 is negative"):
        labelled(root, "0", "-1", "1")
    with pytest.raises(DataError, match=r"line 4: label 20250131, but there are 3 different"):
        labelled(root, "0", "1", "20250131")
    with pytest.raises(DataError, match=r"should be two classes or more, not \['cat'\]"):
        labelled(root, "cat", "cat")
    write(root / "train.csv", csv_of(ROWS))
    for label in ("bird", "-1", "Cat"):
        write(root / "val.csv", csv_of([("5.png", "cat"), ("6.png", label)]))
        message = rf"val\.csv, line 3: label '{label}' is none of the .*: ant, cat, dog$"
        with pytest.raises(DataError, match=message):
            opened_table(root, "val")


@pytest.mark.fault(
    "A command is given a table with a row without a label",
    "It ends with 2 and the line, without a traceback",
)
def test_d16_the_command_line_says_it_in_one_message(tmp_path, capsys):
    root = make_pictures(tmp_path)
    table = write(root / "t.csv", "path,label\npictures/1.png,a\npictures/2.png,\n")
    assert train_on(table, tmp_path / "run", name="csv") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert f"{table}, line 3: the label is missing" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    "The folder of the data does not exist",
    "Folders with near names and the layout that is expected are shown, without a traceback",
)
def test_d20_a_missing_root_is_answered_with_near_names_and_the_layout(root, tmp_path, capsys):
    missing = root.with_name("dat")
    expected = f"there is no such folder, perhaps {root}; images of a folder lie in ROOT/SPLIT/"
    assert train_on(missing, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert f"data.root={str(missing)!r}: {expected}" in error
    assert "such as ROOT/train/ants/1.jpg" in error
    report = tmp_path / "report.json"
    assert main(["data", "check", str(missing), f"--json={report}"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "A training run would fail:"
    (problem,) = json.loads(report.read_text())["problems"]
    assert expected in problem["text"]
    assert "Traceback" not in captured.out + captured.err + error
    assert not (tmp_path / "run").exists()
