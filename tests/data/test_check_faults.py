"""The faults of data sets, each named by the check as training would stumble over it."""

import re

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
    png_that_claims,
    turned_jpeg,
)
from PIL import Image

from vit_jax.data.catalog import open_splits
from vit_jax.data.source import DataError


@pytest.fixture
def root(tmp_path):
    """See `make_sound`."""
    return make_sound(tmp_path / "set")


FAULTS = {
    "d1-truncated": (
        {"train/a/x.jpg": jpeg()[:-200]},
        ("problems", SKIPPED, r"train/a/x.jpg: cannot be decoded \(.*truncated.*\): it is damaged"),
    ),
    "d2-empty": ({"val/b/x.jpg": b""}, ("problems", SKIPPED, "val/b/x.jpg: .*it is empty")),
    "d2-html": (
        {"train/a/x.jpg": b"<!DOCTYPE html><p>404"},
        ("problems", SKIPPED, "train/a/x.jpg: is not an image .an HTML page of 21 bytes"),
    ),
    "d2-lfs": (
        {"train/a/x.jpg": b"version https://git-lfs.github.com/spec/v1\n"},
        ("problems", SKIPPED, "train/a/x.jpg: .*git-lfs pointer"),
    ),
    "d3-400-megapixels": (
        {"train/a/x.png": png_that_claims(20_000, 20_000)},
        ("problems", SKIPPED, "train/a/x.png: claims .* pixels, above data.max_pixels=50,000,000"),
    ),
    "d4-100-megapixels": (
        {"train/a/x.png": png_that_claims(10_000, 10_000)},
        ("problems", SKIPPED, "train/a/x.png: claims 10000x10000 pixels, above data.max_pixels"),
    ),
    "d5-turned": (
        {"train/a/x.jpg": turned_jpeg()},
        ("notes", "turned as their EXIF says", "train/a/x.jpg"),
    ),
    "d7-float": (
        {"train/a/x.tif": Image.fromarray(np.ones((20, 20), np.float32))},
        ("problems", "cannot become such pixels", "train/a/x.tif: holds floating-point pixels"),
    ),
    "d8-transparent": (
        {"train/a/x.png": Image.new("RGBA", (20, 20), (1, 2, 3, 4))},
        ("notes", "may be transparent: laid on data.background", "train/a/x.png"),
    ),
    "d10-one-pixel": (
        {"train/a/x.png": plain(7, 1, 1), "train/b/y.png": plain(8, 16, 15),
         "train/b/z.png": plain(9, 16, 16)},
        ("warnings", "below 16 pixels", r"train/a/x.png \(1 x 1\)", r"train/b/y.png \(15 x 16\)"),
    ),
    "d11-misnamed": (
        {"train/a/x.jpg": plain(7, 20, 20), "train/a/y.JPEG": jpeg(), "train/b/z": jpeg(1)},
        ("notes", "of another format than their names say", "train/a/x.jpg"),
    ),
    "d12-ignored": (
        {"train/a/.DS_Store": b"", "train/a/._x.jpg": b"", "val/Thumbs.db": b""},
        ("notes", "3 hidden or similar entries ignored"),
    ),
    "d13-empty-class": (
        {"train/c/.x": b"", "val/c/1.png": plain(1, 20, 20)},
        ("problems", "1 folder of a class without any file", "train/c"),
    ),
    "d13-one-class": (
        {"test/a/1.png": plain(1, 20, 20)},
        ("problems", "test should hold the folders of two classes or more, not a"),
    ),
    "d13-class-sets-differ": (
        {"train/c/1.png": plain(1, 20, 20), "val/d/1.png": plain(2, 20, 20)},
        ("problems", "val and train should hold the same classes", "train/c", "val/d"),
    ),
    "d13-image-in-no-class": (
        {"train/x.png": plain(1, 20, 20), "train/y.png": plain(2, 20, 20)},
        ("problems", "2 files in no class; images of a folder lie in ROOT/SPLIT/CLASS/FILE",
         "train/x.png", "train/y.png"),
    ),
    "other-format": (
        {"train/a/x.gif": jpeg()},
        ("warnings", "1 file of another format than the others, which are PNG",
         r"train/a/x.gif \(JPEG\)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault, root):
    files, (kind, text, *names) = FAULTS[fault]
    for name, content in files.items():
        suffix = {"format": "TIFF"} if name.endswith("tif") else {}
        save(root / name, content, **suffix)
    report = check(root)
    found = named(getattr(report, kind), text)
    assert len(found) == len(names)
    for name, expected in zip(found, names, strict=True):
        assert re.fullmatch(f"{expected}.*", name)
    assert report.can_train == (kind != "problems")
    if kind == "problems":
        assert_training_fails(config_of(root))


def assert_training_fails(config):
    """In opening, or in decoding what has been opened."""
    with pytest.raises(DataError):  # noqa: PT012
        for source in open_splits(config).values():
            for index in range(len(source)):
                source[index]


def test_modes_are_counted(root):
    save(root / "train" / "a" / "x.jpg", Image.new("CMYK", (20, 20)), format="JPEG")
    save(root / "train" / "a" / "x.png", Image.fromarray(np.ones((20, 20), np.uint16)))
    report = check(root)
    assert report.splits["train"].modes == {"RGB": 22, "CMYK": 1, "I;16": 1}
    assert report.can_train


def test_sizes_are_those_that_people_see(root):
    save(root / "test" / "a" / "x.jpg", turned_jpeg())
    save(root / "test" / "b" / "y.jpg", jpeg(1))
    facts = check(root).splits["test"]
    assert (facts.width, facts.height) == ((20, 22, 24), (20, 22, 24))


def test_two_views_of_a_telephone_are_a_jpeg(root):
    frames = [Image.fromarray(picture(seed)) for seed in (100, 101)]
    path = root / "train" / "a" / "x.jpg"
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    report = check(root)
    assert report.splits["train"].formats == {"PNG": 22, "JPEG": 1}
    assert report.notes == ()


def test_classes_are_listed_in_the_order_of_their_labels(root):
    for split in ("train", "val"):
        for name in ("B", "10", "9"):
            save(root / split / name / "1.png", picture(hash((split, name)) % 1000))
    classes = list(check(root).splits["train"].classes)
    assert classes == ["10", "9", "B", "a", "b"]
    assert tuple(classes) == open_splits(config_of(root))["train"].class_names


def write_table(folder, *lines):
    for number in range(4):
        save(folder / f"{number}.png", picture(number))
    (folder / "labels.csv").write_text("\n".join(("path,label,split", *lines)) + "\n")
    return str(folder / "labels.csv")


def test_tables_are_checked_like_folders(tmp_path):
    lines = ["0.png,a,train", "1.png,b,train", "2.png,a,val", "3.png,a,val"]
    table = write_table(tmp_path / "set", *lines)
    (tmp_path / "set" / "3.png").write_bytes(b"")
    report = check(table, name="csv")
    assert report.splits["train"].classes == {"a": 1, "b": 1}
    assert report.splits["val"].classes == {"a": 2, "b": 0}
    assert named(report.problems, SKIPPED) == ["3.png: is not an image (it is empty)"]
    assert named(report.warnings, "val has no example of 1 class") == ["b"]


def test_a_bad_row_of_a_table_is_named(tmp_path):
    table = write_table(tmp_path / "set", "0.png,a,train", "1.png,,train", "2.png,b,train")
    (problem,) = check(table, name="csv").problems
    assert "labels.csv" in problem.text
    assert "row 3" in problem.text or "line 3" in problem.text


def test_all_problems_are_found_at_once(root):
    save(root / "train" / "a" / "half.jpg", jpeg()[:-200])
    save(root / "train" / "loose.png", plain(1, 20, 20))
    save(root / "train" / "c" / "1.png", plain(2, 20, 20))
    (root / "train" / "d").mkdir()
    (root / "val" / "d").mkdir()
    report = check(root, image_size=None)
    assert named(report.problems, "in no class") == ["train/loose.png"]
    assert named(report.problems, "the same classes") == ["train/c"]
    (half,) = named(report.problems, SKIPPED)
    assert half.startswith("train/a/half.jpg: ")
    assert any("needs data.image_size" in problem.text for problem in report.problems)
    empty = [problem.names for problem in report.problems if "without any" in problem.text]
    assert sorted(name for names in empty for name in names) == ["train/d", "val/d"]
    # What can be counted is.
    assert report.splits["train"].classes == {"a": 13, "b": 10, "c": 1, "d": 0}
