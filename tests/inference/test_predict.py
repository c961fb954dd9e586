"""Predictions: the model's own numbers, the run's own accuracy, and what the command writes."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pty
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from inference.small_models import NAMES, outputs_of, small_model
from PIL import Image

from vit_jax import ViT
from vit_jax.commands import predict as command
from vit_jax.config import Config
from vit_jax.data.catalog import open_source
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference import evaluate as evaluation
from vit_jax.inference import images as image_module
from vit_jax.inference import saved as saved_module
from vit_jax.inference.evaluate import evaluate_saved
from vit_jax.inference.images import find_images
from vit_jax.inference.predict import predict
from vit_jax.inference.saved import open_model
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.setup import set_up


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """One compiles fastest; many are tested with `forward`."""
    for module in (setup, evaluation, image_module):
        monkeypatch.setattr(module, "select_devices", lambda device: jax.local_devices()[:1])


def probabilities_of(saved, pixels):
    logits = np.float64(outputs_of(saved, pixels)["logits"])
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def run(*arguments):
    """The exit code of `vit-jax predict MODEL …`."""
    return tyro.extras.subcommand_cli_from_dict(
        {"predict": command.predict, "other": command.check_out},
        args=["predict", "MODEL", *map(str, arguments)],
        use_underscores=True,
    )


def test_predictions_are_the_largest_probabilities_in_order(photos):
    saved = small_model()
    found = list(predict(saved, find_images(["photos"]), top=2))
    assert found[2] == dataclasses.replace(found[2], file="photos/01b.jpg", labels=())
    assert found.pop(2).error == "is not an image (it is empty)"
    expected = probabilities_of(saved, photos)
    for prediction, probabilities in zip(found, expected, strict=True):
        order = np.argsort(-probabilities)[:2]
        assert prediction.labels == tuple(order)
        assert prediction.classes == tuple(NAMES[label] for label in order)
        np.testing.assert_allclose(prediction.probabilities, probabilities[order], atol=1e-6)
    assert [each.file for each in found] == [f"photos/{place:02}.png" for place in range(4)]


def test_of_equal_logits_the_first_class_comes_first_as_in_evaluations(photos):
    saved = small_model()
    params = jax.tree.map(np.zeros_like, saved.params)
    found = next(predict(dataclasses.replace(saved, params=params), find_images(["photos"])))
    assert found.labels == (0, 1, 2)


def test_what_softmax_rounds_to_0_is_ranked_by_the_logits(photos):
    saved = small_model()
    params = jax.tree.map(np.zeros_like, saved.params)
    params["head"]["bias"] = np.float32([0, -300, -200])
    found = next(predict(dataclasses.replace(saved, params=params), find_images(["photos"])))
    assert (found.labels, found.probabilities) == ((0, 2, 1), (1.0, 0.0, 0.0))


def test_without_names_the_classes_are_their_numbers(photos):
    saved = dataclasses.replace(small_model(), class_names=None)
    found = next(predict(saved, find_images(["photos"]), top=10))
    assert sorted(found.classes) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": None}, "small has no head.* vit-jax features small IMAGES"),
        ({"pool": "none", "class_token": False}, "pool='none', which gives every token logits"),
    ],
)
def test_models_without_a_class_for_an_image_are_refused(photos, fields, message):
    with pytest.raises(DataError, match=message):
        predict(small_model(**fields), find_images(["photos"]))


def test_top_below_1_is_refused(photos):
    with pytest.raises(DataError, match="top=0: should be at least 1"):
        predict(small_model(), find_images(["photos"]), top=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 34 pictures of two kinds of noise, hard to tell apart, and its folder of data."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for number in range(60):
        split = "train" if number < 34 else "test"
        label = number % 2
        path = root / split / ("cat", "dog")[label] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = rng.integers(10, 30, 2)
        noise = rng.normal(120 + 6 * label, 60, (*size, 3)).clip(0, 255)
        Image.fromarray(noise.astype(np.uint8)).save(path)
    config = Config(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2),
        data=DataConfig("folder", str(root), train_split="train", eval_split=None, image_size=8),
        augment=AugmentConfig(flip="random"),
        optim=OptimConfig(learning_rate=3e-3),
        batch_size=8,
        steps=30,
        device="cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])
        folder = RunFolder(tmp_path_factory.mktemp("run"))
        outcome = train(set_up(config), folder)
    return folder.path, root, outcome


def test_evaluating_through_predict_gives_the_accuracy_of_the_runs_own_test(trained):
    folder, root, outcome = trained
    saved = open_model(folder)
    files = open_source(saved.config.data, "test")
    found = list(predict(saved, find_images([str(root / "test")]), top=1))
    right = [prediction.classes[0] == prediction.file.split("/")[-2] for prediction in found]
    _, result = evaluate_saved(folder)
    assert sum(right) / len(right) == result.accuracy == outcome.summary["test_accuracy"]
    assert 0.5 < result.accuracy < 1  # neither blind nor perfect, so that a difference would show
    predicted = {prediction.file: prediction.labels[0] for prediction in found}
    confusion = np.zeros((2, 2), int)
    for index, label in enumerate(files.labels):
        confusion[label, predicted[files.name(index)]] += 1
    np.testing.assert_array_equal(confusion, result.confusion)


def test_piped_it_prints_lines_of_tabs_and_bad_files_on_stderr(photos, capsys):
    assert run("photos", "--top=10") == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [f"photos/{place:02}.png" for place in range(4)]
    for line, probabilities in zip(lines, probabilities_of(small_model(), photos), strict=True):
        assert line[1::2] == [NAMES[label] for label in np.argsort(-probabilities)]
        np.testing.assert_allclose(np.float64(line[2::2]), -np.sort(-probabilities), atol=1e-6)
    assert err.splitlines() == [
        "photos/01b.jpg is not an image (it is empty): skipped",
        "1 of 5 images could not be read",
    ]


def test_csv_holds_every_digit(photos, capsys):
    assert run("photos", "--top=2", "--out=found.csv") == 0
    assert "4 predictions: found.csv" in capsys.readouterr().out
    with open("found.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class_1", "probability_1", "class_2", "probability_2"]
    good = [each for each in predict(small_model(), find_images(["photos"]), 2) if not each.error]
    assert [row[0] for row in rows] == [each.file for each in good]
    assert [row[1::2] for row in rows] == [list(each.classes) for each in good]
    assert [tuple(map(float, row[2::2])) for row in rows] == [each.probabilities for each in good]


def test_json_names_the_bad_ones_too(photos, capsys):
    assert run("photos", "--top=1", "--out=found.JSON") == 0
    content = json.loads(Path("found.JSON").read_text())
    found = list(predict(small_model(), find_images(["photos"]), 1))
    assert content == [
        {"file": each.file, "error": each.error}
        if each.error
        else {
            "file": each.file,
            "predictions": [{"class": each.classes[0], "probability": each.probabilities[0]}],
        }
        for each in found
    ]
    assert content[2] == {"file": "photos/01b.jpg", "error": "is not an image (it is empty)"}


def test_odd_names_stay_one_line_and_keep_their_bytes(photos, capsys, tmp_path):
    odd = os.fsdecode(b"a\tb\n\x1b[2J\xff.png")
    (tmp_path / "photos" / "00.png").rename(tmp_path / odd)
    assert run(odd, "--top=1") == 0
    assert capsys.readouterr().out.startswith("a\\tb\\n\\x1b[2J\\udcff.png\t")
    assert run(odd, "--out=found.csv") == 0
    with open("found.csv", newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file))[1][0] == odd


def test_if_no_image_can_be_read_it_exits_with_1_and_writes_nothing(photos, capsys, tmp_path):
    assert run("photos/01b.jpg", "--out=found.csv") == 1
    assert capsys.readouterr().err.splitlines()[-1] == ("Error: none of the 1 images could be read")
    assert not (tmp_path / "found.csv").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("found.jsn", "found.jsn: should end in .csv or .json; perhaps found.json"),
        ("found", "found: should end in .csv or .json$"),
        ("photo/found.csv", "there is no folder photo, perhaps photos"),
        ("folder.csv", "folder.csv: is a folder"),
    ],
)
def test_where_it_cannot_write_it_says_so_before_anything_is_read(
    photos, monkeypatch, out, message
):
    os.mkdir("folder.csv")
    monkeypatch.setattr(saved_module, "open_model", pytest.fail)
    with pytest.raises(DataError, match=message):
        run("photos", f"--out={out}")


def test_a_file_is_written_whole_or_not_at_all_and_none_over_another(photos, monkeypatch, tmp_path):
    (tmp_path / "before.csv").write_text("before")
    with pytest.raises(DataError, match=r"--out before.csv: is there already; name another"):
        run("photos", "--out=before.csv")
    assert (tmp_path / "before.csv").read_text() == "before"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "_row", full)
    with pytest.raises(DataError, match=r"--out found.csv: cannot be written \(No space left"):
        run("photos", "--out=found.csv")
    assert sorted(os.listdir(tmp_path)) == ["before.csv", "photos"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Runs the command on a terminal of 100 columns, and returns what that shows."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")

    def show(*arguments):
        screen = Terminal()
        with contextlib.redirect_stdout(screen):
            assert run(*arguments) == 0
        return re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())  # bold and the like

    return show


def test_on_a_terminal_it_is_a_table(photos, terminal):
    lines = [
        line.split() for line in terminal("photos", "--top=2").splitlines() if line.strip(" ─╴╶")
    ]
    assert lines[0] == ["file", "class", "probability"]
    order = np.argsort(-probabilities_of(small_model(), photos), axis=1)
    assert lines[1][:2] == ["photos/00.png", NAMES[order[0, 0]]]
    assert lines[2][0] == NAMES[order[0, 1]]
    assert lines[1][2].endswith("%")
    assert lines[-1][:2] == ["4", "images:"]


def test_a_long_table_ends_early_and_says_what_there_is_in_all(photos, terminal, monkeypatch):
    monkeypatch.setattr(command, "LINES", 6)
    text = terminal("photos", "--top=3")
    assert "photos/01.png" in text
    assert "photos/02.png" not in text
    assert "The first 2 of 4 are shown; --out predictions.csv writes all of them" in text


def test_long_names_fit_the_terminal(photos, terminal, monkeypatch, tmp_path):
    names = ("a" * 60, "b" * 60, "[red]c")
    saved = dataclasses.replace(small_model(), class_names=names)
    monkeypatch.setattr(saved_module, "open_model", lambda model, checkpoint: saved)
    (tmp_path / "photos" / "00.png").rename(tmp_path / "photos" / ("x" * 100 + ".png"))
    lines = terminal("photos/" + "x" * 100 + ".png").splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "xxx…xxx" in text
    assert "xxx.png" in text
    assert "aaa…aaa" in text
    assert "[red]c" in text


def test_the_middle_is_left_out():
    assert command.shortened("abcdefghij", 10) == "abcdefghij"
    assert command.shortened("abcdefghijk", 10) == "abc…fghijk"


def test_the_bar_goes_to_stderr_and_leaves_stdout_alone(photos, monkeypatch, capfd):
    lead, follow = pty.openpty()
    with os.fdopen(follow, "w") as screen, os.fdopen(lead, "rb", buffering=0) as other_end:
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        assert run("photos", "--top=1") == 0
        screen.flush()
        shown = other_end.read(65536).decode()
    out = capfd.readouterr().out
    assert "images" in shown
    assert out.count("photos/0") == 4
    assert "photos/00.png" not in shown
