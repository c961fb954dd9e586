"""The run folder: its number, its files, and paths that cannot be one."""

import json

import pytest

from vit_jax.runs.folder import RunError, RunFolder


def test_folders_are_numbered_without_reusing_one(tmp_path):
    paths = [RunFolder.numbered(tmp_path / "runs", "digits").path for _ in range(3)]
    assert paths == [tmp_path / "runs" / f"digits-{number}" for number in (1, 2, 3)]
    assert all(path.is_dir() for path in paths)
    # Another name counts for itself; a file in the way is passed over as a folder is.
    assert RunFolder.numbered(tmp_path / "runs", "cifar10").path.name == "cifar10-1"
    (tmp_path / "runs" / "digits-4").write_text("")
    assert RunFolder.numbered(tmp_path / "runs", "digits").path.name == "digits-5"


def test_a_folder_may_exist_already_and_keeps_its_files(tmp_path):
    (tmp_path / "log.txt").write_text("before\n")
    folder = RunFolder(str(tmp_path))
    folder.log("one")
    RunFolder(tmp_path).log("two")
    assert (tmp_path / "log.txt").read_text() == "before\none\ntwo\n"


def test_parents_are_made(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "log.txt").read_text() == ""
    assert folder.checkpoints.parent == folder.pictures.parent == folder.path


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_what_cannot_be_written_is_refused(tmp_path, path):
    # A file in the way, rather than mode bits: those do not stop root.
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written") as error:
        RunFolder(tmp_path / path)
    assert str(tmp_path / path) in str(error.value)
    assert "--workdir" in str(error.value)


def test_a_numbered_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder.numbered(tmp_path / "runs", "digits")


def test_files_are_replaced_as_a_whole_and_nothing_else_is_left(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_text("config.json", "a much longer first version\n")
    folder.write_text("config.json", "second\n")
    folder.write_json("summary.json", {"accuracy": 0.5, "names": ["a", "b"], "none": None})
    assert (tmp_path / "config.json").read_text() == "second\n"
    summary = (tmp_path / "summary.json").read_text()
    assert json.loads(summary) == {"accuracy": 0.5, "names": ["a", "b"], "none": None}
    assert summary.endswith("}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt", "config.json", "summary.json"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_text("config.json", "old\n")

    def no_rename(old, new):
        raise OSError("killed before the rename")

    monkeypatch.setattr("os.replace", no_rename)
    with pytest.raises(OSError, match="killed"):
        folder.write_text("config.json", "new\n")
    assert (tmp_path / "config.json").read_text() == "old\n"
