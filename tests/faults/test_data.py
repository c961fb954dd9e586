"""Files that are no pictures, or too large ones: rows D1 to D4 of the table of faults."""

import json

import jax
import pytest
from data.folders import make_folder, opened, png, save
from data.sound_folder import jpeg
from faults.small_training import make_colours, train_on
from weights.random_models import save_random

from vit_jax.cli import main
from vit_jax.data.catalog import open_source
from vit_jax.data.decode import BadImageError
from vit_jax.data.encoded import decode_all
from vit_jax.data.source import DataConfig
from vit_jax.train import setup

REMEDY = "replace it, remove it, or leave such files out with data.on_bad_image=skip"


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


def left_out(root):
    """What `on_bad_image="skip"` leaves out, by file name, and the names that stay in place."""
    config = DataConfig(name="folder", root=str(root), train_split="train", image_size=4)
    source = decode_all(open_source(config, "train"))
    bad = {source.name(i).rpartition("/")[2]: why for i, why in source.bad.items()}
    return bad, [source.name(i) for i in range(len(source))]


def refused(root, **fields):
    """The error of opening a folder, which names a file."""
    with pytest.raises(BadImageError) as error:
        opened(root, **fields)
    return str(error.value)


@pytest.mark.fault(
    "A JPEG of the training images is cut short",
    "It is named with what to do, or left out without moving the others, and never half read",
)
def test_d1_a_truncated_jpeg_is_named_or_left_out_and_never_half_read(root):
    torn = root / "train" / "b" / "torn.jpg"
    save(torn, jpeg())
    _, names = left_out(root)
    torn.write_bytes(torn.read_bytes()[:-200])
    before = torn.read_bytes(), torn.stat().st_mtime_ns
    message = refused(root)
    assert message.startswith(f"{torn} cannot be decoded (")
    assert "truncated" in message
    assert message.endswith(f"): it is damaged; {REMEDY}")
    bad, after = left_out(root)
    assert list(bad) == ["torn.jpg"]
    assert "truncated" in bad["torn.jpg"]
    assert after == names  # all others keep their places
    assert (torn.read_bytes(), torn.stat().st_mtime_ns) == before


@pytest.mark.fault(
    "A training is started on a folder with a JPEG that is cut short",
    "It ends with 2 before a run folder is made, and with skip it goes on and lists the file",
)
def test_d1_training_refuses_or_lists_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])
    root = make_colours(tmp_path / "data")
    torn = root / "train" / "B" / "1.png"
    torn.write_bytes(torn.read_bytes()[:-30])
    before = torn.read_bytes(), torn.stat().st_mtime_ns
    assert train_on(root, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert f"{torn} cannot be decoded (" in error
    assert REMEDY in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()

    assert train_on(root, tmp_path / "run", "--config.data.on_bad_image=skip") == 0
    listed = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"{torn}\tcannot be decoded (")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["bad_images"] == 1
    assert "Left out: 1 file without a picture" in capsys.readouterr().out
    assert (torn.read_bytes(), torn.stat().st_mtime_ns) == before


@pytest.mark.fault(
    "An empty file or a web page has the name of a picture",
    "It is said what the file is and what to do with it",
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an image (it is empty)"),
        (
            b"<html>\n<h1>404</h1>",
            "is not an image (an HTML page of 19 bytes, perhaps a failed download)",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is not an image (a git-lfs pointer: fetch the file itself with `git lfs pull`)",
        ),
    ],
    ids=["empty", "html", "lfs"],
)
def test_d2_an_empty_file_and_a_web_page_are_not_images(root, content, message):
    path = root / "train" / "a" / "page.jpg"
    save(path, content)
    assert refused(root) == f"{path} {message}; {REMEDY}"
    assert left_out(root)[0] == {"page.jpg": message}


@pytest.mark.fault(
    "Predictions are asked for a torn picture, an empty file, a web page and a huge picture",
    "Each file is named with its reason, and the command exits with 1 as none could be read",
)
def test_d1_d2_d4_predictions_name_files_that_are_no_pictures(tmp_path, capsys):
    contents = {
        "empty.jpg": (b"", "is not an image (it is empty)"),
        "huge.png": (png(8_000, 8_000, 1, 0, []), "claims 8000x8000 pixels, above data.max_pixels"),
        "page.jpg": (b"<!DOCTYPE html>", "is not an image (an HTML page of 15 bytes"),
        "torn.jpg": (jpeg()[:-200], "cannot be decoded (image file is truncated"),
    }
    for name, (content, _) in contents.items():
        save(tmp_path / "photos" / name, content)
    weights = save_random(tmp_path, "timm")
    assert main(["predict", str(weights), str(tmp_path / "photos")]) == 1
    captured = capsys.readouterr()
    *lines, last = captured.err.splitlines()
    for line, (name, (_, reason)) in zip(lines, contents.items(), strict=True):
        assert line.startswith(f"{tmp_path / 'photos' / name} {reason}")
        assert line.endswith(": skipped")
    assert last == "Error: none of the 4 images could be read"
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.fault(
    "A PNG of a few bytes claims 400 or 100 megapixels",
    "It is refused before it is decoded, with the limit and its field in the message",
)
@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(
    ("side", "claim"),
    [(20_000, ("more than 89,478,485",)), (10_000, ("10000x10000", "more than 89,478,485"))],
)
def test_d3_d4_decompression_bombs_are_refused(root, side, claim):
    path = root / "train" / "b" / "bomb.png"
    save(path, png(side, side, 1, 0, []))
    rest = "above data.max_pixels=50,000,000: make it smaller, or raise the limit if you trust it"
    assert refused(root) in [f"{path} claims {each} pixels, {rest}; {REMEDY}" for each in claim]
    assert list(left_out(root)[0]) == ["bomb.png"]


@pytest.mark.fault(
    "The limit of pixels is set to one below, and to exactly, what the pictures have",
    "The first is refused, the second is read",
)
def test_d3_the_limit_can_be_set(root):
    message = "claims 4x4 pixels, above data.max_pixels=15: make it smaller, or raise"
    assert f"{root}/train/a/1.png {message}" in refused(root, max_pixels=15)
    assert len(opened(root, max_pixels=16)) == 6
