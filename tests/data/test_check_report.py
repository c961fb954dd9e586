"""What people read of a check: bounded in lines and columns, while the JSON has all."""

import json
import os
from pathlib import Path

import pytest
from data.folders import plain, save
from data.sound_folder import (
    check,
    jpeg,
    make_sound,
    named,
    picture,
)

from vit_jax.data.check_report import Finding, report_text


@pytest.fixture
def root(tmp_path):
    """See `make_sound`."""
    return make_sound(tmp_path / "set")


@pytest.fixture
def ruin(root):
    """As many kinds of findings as there are, each with 47 names."""
    for number in range(47):
        name = f"{number:02}_{'long_name_' * 5}"
        save(root / "train" / "a" / f"bad_{name}.jpg", b"<html>")
        save(root / "train" / "a" / f"small_{name}.png", plain(number, 2, 2))
        save(root / "train" / "b" / f"same_{name}.png", plain(number, 20, 20))
        save(root / "val" / "a" / f"same_{name}.png", plain(number, 20, 20))
        save(root / "train" / "b" / f"turned_{name}.gif", jpeg(number, quality=50 + number))
        save(root / "val" / f"loose_{name}.txt", b"")
        save(root / "train" / f"class_{name}" / "1.png", picture(5000 + number))
        (root / "val" / f"empty_{name}").mkdir()
    return root


def test_the_text_fits_a_screen_and_the_json_has_all(ruin):
    report = check(ruin)
    lines = report_text(report).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("    train/a/bad_00_long_name") for line in lines)
    assert lines[-1] != "Nothing keeps it from training."
    content = json.loads(report.to_json())
    names = [len(finding["names"]) for finding in content["problems"] + content["warnings"]]
    assert names.count(47) >= 4
    assert len(content["splits"]["train"]["unreadable"]) == 47
    assert content["splits"]["train"]["classes"]["a"] == 106


def test_names_beyond_ten_are_counted(root):
    for number in range(47):
        save(root / "train" / "a" / f"bad{number:02}.jpg", b"")
    text = report_text(check(root))
    shown = [line for line in text.splitlines() if "/bad" in line]
    assert shown == [f"    train/a/bad{n:02}.jpg: is not an image (it is empty)" for n in range(10)]
    assert text.splitlines()[-1] == "    … and 37 more"


def test_many_copies_of_one_image_take_three_lines(root):
    for number in range(100):
        save(root / "train" / "ab"[number % 2] / f"copy{number}.png", plain(9, 20, 20))
    report = check(root)
    (line,) = named(report.warnings, "more than one class")
    assert line.count(" = ") == 99
    lines = report_text(report).splitlines()
    (start,) = [index for index, text in enumerate(lines) if "more than one class" in text]
    assert lines[start + 1].startswith("    train/a/copy0.png = train/a/copy10.png = ")
    assert lines[start + 3].endswith(" …")
    assert lines[start + 4] == ""


TEXT = """\
set: 29 images, 2 classes, 2 splits
ROOT

                train     val
a                  13       3
b                  10       3
all classes        23       6

width    24 to 400 pixels, median 24
height   20 to 300 pixels, median 20
formats  27 PNG, 1 JPEG
modes    27 RGB, 1 L

Warnings:
- 1 file of another format than the others, which are PNG:
    val/a/pale.jpg (JPEG)

A training run would fail:
- 1 unreadable file to replace, to remove, or to leave out with data.on_bad_image=skip:
    train/a/x.jpg: is not an image (it is empty)"""


def test_the_text_word_by_word(root):
    save(root / "train" / "a" / "x.jpg", b"")
    save(root / "val" / "a" / "pale.jpg", plain(200, 300, 400), format="JPEG")
    assert report_text(check(root)).replace(str(root), "ROOT").splitlines() == TEXT.splitlines()


def real(name):
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    return check(Path(os.environ["VIT_JAX_TEST_DATA"]) / name, image_size=224)


def test_the_placeholder_among_the_ants_is_found():
    report = real("hymenoptera")
    assert report.can_train
    (warning,) = report.warnings
    assert warning == Finding(warning.text, ("train/ants/imageNotFound.gif (GIF)",))
    assert warning.text.startswith("1 file of another format than the others, which are JPEG")
    assert report.splits["train"].classes == {"ants": 124, "bees": 121}
    assert report.splits["val"].classes == {"ants": 70, "bees": 83}


def test_the_x_rays_are_sound():
    report = real("chest_xray")
    assert (report.problems, report.warnings, report.notes) == ((), (), ())
    assert list(report.splits) == ["train", "val", "test"]
    assert report.splits["train"].modes == {"L": 252}
    assert report.splits["train"].width == (256, 256, 256)
