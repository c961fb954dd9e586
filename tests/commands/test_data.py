"""`vit-jax data check`: what is found at a path, exit codes, and what is printed and written."""

import json
import shutil

import numpy as np
import pytest
from data.folders import plain, save

from vit_jax import cli
from vit_jax.commands.data import kind_of


@pytest.fixture
def root(tmp_path):
    """A sound folder of images."""
    for number, name in enumerate(("train/a/1", "train/a/2", "train/b/1", "val/a/1", "val/b/1")):
        save(tmp_path / "set" / f"{name}.png", plain((number, 0, 0), 20, 24))
    return tmp_path / "set"


def check(capsys, *arguments):
    """The exit code, and the lines of stdout and of stderr."""
    code = cli.main(["data", "check", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_a_sound_folder_exits_with_0(root, capsys):
    code, out, err = check(capsys, root)
    assert (code, err) == (0, [])
    assert out[0] == "set: 5 images, 2 classes, 2 splits"
    assert out[-1] == "Nothing keeps it from training."


def test_what_would_fail_exits_with_1_and_the_reasons_come_last(root, capsys, tmp_path):
    save(root / "train" / "a" / "x.jpg", b"")
    code, out, err = check(capsys, root, f"--json={tmp_path / 'report.json'}")
    assert (code, err) == (1, [])
    assert out[-3] == "A training run would fail:"
    assert out[-1] == "    train/a/x.jpg: is not an image (it is empty)"
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["problems"][0]["names"] == ["train/a/x.jpg: is not an image (it is empty)"]
    code, out, _ = check(capsys, root, "--on_bad_image=skip")
    assert code == 0
    assert "    train/a/x.jpg: is not an image (it is empty)" in out


def test_a_missing_folder_exits_with_1_and_near_names(root, capsys):
    code, out, _ = check(capsys, root.with_name("sett"))
    assert code == 1
    assert out[0] == "A training run would fail:"
    assert f"perhaps {root};" in " ".join(" ".join(out).split())  # wherever the lines break


def test_digits_need_no_root(capsys):
    code, out, _ = check(capsys, "--name", "digits")
    assert code == 0
    assert out[0] == "digits: 1,797 images, 10 classes, 2 splits"
    code, out, _ = check(capsys, "--name", "digits", "--image_size", "224")
    assert code == 1
    assert "the images of digits are 8x8 pixels" in " ".join(out)


def test_a_table_an_archive_and_arrays_are_recognised(root, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / "all.csv").write_text("path,label\ntrain/a/1.png,a\ntrain/b/1.png,b\nval/b/1.png,b\n")
    code, out, _ = check(capsys, root / "all.csv", "--image_size", "8", "8")
    assert (code, out[0]) == (0, "all.csv: 3 images, 2 classes, 1 split")
    (root / "all.csv").unlink()

    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "set")
    code, out, _ = check(capsys, archive)
    assert (code, out[0]) == (0, "packed.tar.gz: 5 images, 2 classes, 2 splits")

    images, labels = np.zeros((4, 5, 5, 1), np.uint8), np.array([0, 1, 1, 1])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels)
    code, out, _ = check(capsys, tmp_path / "a.npz")
    assert (code, out[0]) == (0, "a.npz: 4 images, 2 classes, 1 split")


def test_a_table_with_columns_and_paths_of_its_own(root, capsys):
    (root / "labels.csv").write_text("id,breed\n1,dingo\n2,pug\n3,dingo\n4,pug\n")
    for number in (2, 3, 4):
        shutil.copy(root / "train" / "b" / "1.png", root / "train" / "b" / f"{number}.png")
    code, out, _ = check(capsys, root)
    assert code == 1
    assert "no column label, class, target or category" in " ".join(" ".join(out).split())
    code, out, _ = check(capsys, root, "--label_column", "breed", "--image_path", "train/b/{}.png")
    assert (code, out[0]) == (0, "set: 4 images, 2 classes, 1 split")


def test_kinds_follow_from_what_lies_there(tmp_path):
    for name in ("a.csv", "a.TSV", "a.jsonl"):
        assert kind_of(tmp_path / name) == "csv"
    assert kind_of(tmp_path / "a.npz") == kind_of(tmp_path / "a.npy") == "arrays"
    assert (
        kind_of(tmp_path) == kind_of(tmp_path / "a.zip") == kind_of(tmp_path / "none") == "folder"
    )
    (tmp_path / "submission.csv").touch()
    assert kind_of(tmp_path) == "folder"
    (tmp_path / "labels.csv").touch()
    assert kind_of(tmp_path) == "csv"
    (tmp_path / "x_train.npy").touch()
    assert kind_of(tmp_path) == "arrays"
    (tmp_path / "dataset_dict.json").touch()
    assert kind_of(tmp_path) == "huggingface"


def test_wrong_commands_exit_with_2(root, capsys):
    code, out, err = check(capsys)
    assert (code, out) == (2, [])
    assert err[0].startswith("Error: name the data: a folder of images, a table, arrays, or --name")
    code, _, err = check(capsys, root, f"--json={root / 'none' / 'report.json'}")
    assert code == 2
    assert "cannot be written (No such file or directory)" in err[0]
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "chekc"])
    assert stop.value.code == 2


def test_help_says_what_there_is(capsys):
    for arguments, words in (
        (["--help"], "Look at data sets"),
        (["data", "--help"], "check"),
        (["data", "check", "--help"], "--on_bad_image {error,skip}"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        assert words in capsys.readouterr().out
