"""The check of a data set: facts counted by hand, and what training would refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.folders import plain, save
from data.sound_folder import (
    SKIPPED,
    check,
    config_of,
    jpeg,
    make_sound,
    named,
    picture,
)
from PIL import Image

from vit_jax.data import check_images
from vit_jax.data.catalog import open_splits
from vit_jax.data.check import check_data
from vit_jax.data.check_report import log_lines
from vit_jax.data.source import DataConfig, DataError


@pytest.fixture
def root(tmp_path):
    """See `make_sound`."""
    return make_sound(tmp_path / "set")


def test_a_sound_folder_has_facts_and_no_findings(root):
    save(root / "val" / "a" / "wide.png", plain(3, 18, 90))
    save(root / "val" / "b" / ".DS_Store", b"")
    report = check(root)
    assert (report.problems, report.warnings) == ((), ())
    assert report.can_train
    assert list(report.splits) == ["train", "val"]
    train, val = report.splits.values()
    assert train.classes == {"a": 12, "b": 10}
    assert (train.examples, train.looked_at, train.ignored) == (22, 22, 0)
    assert (train.width, train.height) == ((24, 24, 24), (20, 20, 20))
    assert (train.formats, train.modes) == ({"PNG": 22}, {"RGB": 22})
    assert val.classes == {"a": 3, "b": 3}
    assert (val.width, val.height, val.ignored) == ((24, 24, 90), (18, 20, 20), 1)
    assert (val.formats, val.modes) == ({"PNG": 6}, {"RGB": 5, "L": 1})
    assert report.held_out is None


def test_what_would_be_held_out_is_what_is_held_out(root):
    shutil.rmtree(root / "val")
    report = check(root, holdout=0.3)
    held = open_splits(config_of(root, holdout=0.3))["eval"]
    assert report.held_out == {"a": 4, "b": 3}
    assert list(report.held_out.values()) == np.bincount(held.labels).tolist()
    assert check(root, eval_split=None).held_out is None


WRONG = {
    "no-size": {"image_size": None},
    "size": {"image_size": 0},
    "channels": {"channels": 4},
    "holdout": {"holdout": 1.5},
    "train": {"train_split": "trian"},
    "eval": {"eval_split": "dev2"},
    "test": {"test_split": "test"},
    "slice": {"train_split": "train[:300]"},
    "notation": {"train_split": "train["},
    "name": {"name": "folders"},
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_opening_refuses_is_a_problem(fault, root):
    if fault == "holdout":
        shutil.rmtree(root / "val")
    config = config_of(root, **WRONG[fault])
    with pytest.raises(DataError) as error:
        open_splits(config)
    report = check_data(config)
    assert not report.can_train
    (problem,) = report.problems
    if fault == "train":
        assert "split 'trian' to train on, but 'train', 'val'" in problem.text
    else:
        assert problem.text == str(error.value)


def test_without_splits_names_begin_at_the_root_too(root):
    train = root / "train"
    save(train / "loose.txt", b"")
    save(train / "a" / "x.jpg", b"")
    (train / "empty").mkdir()
    problems = check(train).problems
    assert named(problems, "in no class") == ["loose.txt"]
    assert named(problems, "without any file") == ["empty"]
    assert named(problems, SKIPPED) == ["a/x.jpg: is not an image (it is empty)"]


def test_two_folders_of_one_split_are_a_problem_and_both_are_read(root):
    save(root / "valid" / "a" / "x.jpg", b"")
    report = check(root)
    assert "are names of one split; keep one" in report.problems[0].text
    assert list(report.splits) == ["train", "val", "valid"]
    assert named(report.problems, SKIPPED) == ["valid/a/x.jpg: is not an image (it is empty)"]


def test_faults_of_splits_that_are_not_used_are_warnings(root):
    save(root / "notes" / "a" / "x.jpg", b"")
    save(root / "notes" / "loose.txt", b"")
    report = check(root)
    assert report.can_train
    assert named(report.warnings, "in no class") == ["notes/loose.txt"]
    assert named(report.warnings, "unused splits") == [
        "notes/a/x.jpg: is not an image (it is empty)"
    ]
    open_splits(config_of(root))
    assert not check(root, test_split="notes").can_train


def test_skipped_files_are_warnings_but_pixels_of_no_known_range_are_not(root):
    save(root / "train" / "a" / "x.jpg", b"")
    report = check(root, on_bad_image="skip")
    assert report.can_train
    assert len(named(report.warnings, "left out as data.on_bad_image=skip says")) == 1
    save(
        root / "train" / "a" / "x.tif",
        Image.fromarray(np.ones((20, 20), np.float32)),
        format="TIFF",
    )
    report = check(root, on_bad_image="skip")
    assert not report.can_train
    assert len(named(report.problems, "cannot become such pixels")) == 1


def test_equal_sizes_and_same_class_twins_are_no_duplicates(root):
    for name in ("x", "y"):
        save(root / "train" / "a" / f"{name}.bmp", plain(9, 20, 20), format="BMP")
    save(root / "val" / "a" / "z.bmp", plain(8, 20, 20), format="BMP")
    assert not any("more than one" in finding.text for finding in check(root).warnings)


def test_the_quick_form_reads_headers_alone(root, monkeypatch):
    save(root / "train" / "a" / "half.png", (root / "train/a/00.png").read_bytes()[:-700])
    save(root / "train" / "b" / "no.png", b"<html>")
    monkeypatch.setattr(check_images, "decode", None)
    monkeypatch.setattr(check_images, "_sha256", None)
    report = check(root, full=False)
    assert report.splits["train"].classes == {"a": 13, "b": 11}
    assert report.splits["train"].looked_at == 24
    assert report.splits["val"].looked_at == 5
    assert report.splits["train"].width == (24, 24, 24)
    assert named(report.problems, SKIPPED) == [
        "train/b/no.png: is not an image (an HTML page of 6 bytes, perhaps a failed download)"
    ]
    first, second = log_lines(report)
    assert (
        first
        == "data: train 24 images in 2 classes of 11 to 13, val 5 images in 2 classes of 2 to 3"
    )
    assert second.startswith("data problem: 1 unreadable file")
    assert "train/b/no.png" in second
    monkeypatch.setattr(check_images, "SAMPLE", 9)
    looked_at = [facts.looked_at for facts in check(root, full=False).splits.values()]
    assert looked_at == [9, 5]


QUICK = """
import sys, time
from vit_jax.data.check import check_data
from vit_jax.data.source import DataConfig
config = DataConfig(name="folder", root=sys.argv[1], image_size=16, train_split="train")
seconds = []
for _ in range(3):
    start = time.process_time()
    report = check_data(config, full=False)
    seconds.append(time.process_time() - start)
print(report.splits["train"].examples, report.splits["train"].looked_at, min(seconds))
"""


def test_the_quick_form_takes_less_than_half_a_second_for_10_000_files(tmp_path):
    save(tmp_path / "1.png", picture(0, 200, 300))
    for label in range(20):
        folder = tmp_path / "set" / "train" / f"{label:02}"
        folder.mkdir(parents=True)
        for number in range(500):
            os.link(tmp_path / "1.png", folder / f"{number:04}.png")  # 10,000 names of one file
    # In a program of its own: here the checks of types take longer than what they check.
    command = [sys.executable, "-c", QUICK, tmp_path / "set"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    examples, looked_at, seconds = output.split()
    assert (examples, looked_at) == ("10000", "1024")
    assert float(seconds) < 0.5


def test_sets_in_memory_are_counted():
    config = DataConfig(name="digits", train_split="train", eval_split="auto", test_split="auto")
    report = check_data(config)
    assert report.can_train
    assert {name: facts.examples for name, facts in report.splits.items()} == {
        "train": 1442,
        "test": 355,
    }
    assert report.splits["train"].width is None
    assert sum(report.held_out.values()) == len(open_splits(config)["eval"])


def test_sets_in_memory_have_a_size_of_their_own():
    config = DataConfig(name="digits", train_split="train", eval_split="train", image_size=224)
    problem, *_ = check_data(config).problems
    assert "the images of digits are 8x8 pixels" in problem.text


def test_an_archive_is_checked_as_the_folder_in_it(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(root / "train" / "a" / "x.jpg", b"")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", root.parent, root.name)
    report = check(archive)
    assert report.root == archive
    assert named(report.problems, SKIPPED) == ["train/a/x.jpg: is not an image (it is empty)"]
    assert report.splits["train"].classes == {"a": 13, "b": 10}
    Path(archive).write_bytes(b"<html>")
    (problem,) = check(archive).problems
    assert "cannot be unpacked" in problem.text


def test_nothing_is_written_beside_the_images(root):
    def everything():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before = everything()
    save(root / "train" / "a" / "half.jpg", jpeg()[:-200])
    before = everything()
    check(root)
    assert everything() == before


def test_copies_are_found_where_one_would_be_held_out(root):
    shutil.rmtree(root / "val")
    (root / "train" / "a" / "copy.png").write_bytes((root / "train" / "a" / "00.png").read_bytes())
    found = []
    for seed in range(40):
        warnings = check(root, holdout_seed=seed).warnings
        kept = open_splits(config_of(root, holdout_seed=seed))["train"].encoded
        names = [kept.name(index) for index in range(len(kept))]
        copies = [name for name in names if name.endswith(("a/00.png", "a/copy.png"))]
        found.append(len(copies))
        if len(copies) == 2:
            assert warnings == ()
        else:
            twins = named(warnings, "1 image with a copy among those that would be held out")
            assert twins == ["train/a/00.png = train/a/copy.png"]
    assert set(found) == {1, 2}
    assert check(root, eval_split=None).warnings == ()


@pytest.mark.parametrize("full", [False, True])
def test_slices_with_images_in_common_are_said(root, full):
    def warnings(**fields):
        return [found.text for found in check(root, full, **fields).warnings]

    assert warnings(train_split="train", eval_split="train[:5]") == [
        "5 images in both data.train_split='train' and data.eval_split='train[:5]': learnt, then "
        "evaluated"
    ]
    splits = {"train_split": "train[:12]", "eval_split": "train[12:18]"}
    assert warnings(**splits) == [
        "4 images of train would be used for nothing: data.train_split='train[:12]'"
    ]
    assert warnings(**splits, test_split="train[18:]") == []
    assert warnings(**splits, test_split="train[17:]") == [
        "1 image in both data.eval_split='train[12:18]' and data.test_split='train[17:]': the "
        "best checkpoint is theirs too"
    ]


def test_what_is_held_out_comes_from_the_slice(root):
    shutil.rmtree(root / "val")
    held = open_splits(config_of(root, train_split="train[:16]", holdout=0.3))["eval"]
    report = check(root, train_split="train[:16]", holdout=0.3)
    assert list(report.held_out.values()) == np.bincount(held.labels).tolist() == [3, 2]
