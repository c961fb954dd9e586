import errno
import json
import os
import platform
import subprocess
import sys

import pytest

from vit_jax.runs.folder import RunError
from vit_jax.runs.lock import locked, refuse_if_locked

fcntl = pytest.importorskip("fcntl")


def test_a_folder_is_held_by_one_and_then_free_again(tmp_path):
    with locked(tmp_path) as before:
        assert before is None
        held = json.loads((tmp_path / ".lock").read_text())
        assert (held["pid"], held["host"]) == (os.getpid(), platform.node())
        with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .*, started 20"):
            locked(tmp_path).__enter__()
    with locked(tmp_path) as before:
        assert before is None


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x00"])
def test_a_lock_file_of_any_content_that_nobody_holds_is_taken(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with locked(tmp_path) as before:
        assert before is None


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_living_process_holds_the_folder_and_a_dead_one_does_not(tmp_path):
    holder = {"pid": os.getppid(), "host": platform.node(), "start": "now"}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    with pytest.raises(RunError, match=f"process {os.getppid()} on"):
        locked(tmp_path).__enter__()
    dead = {**holder, "pid": ended_process()}
    (tmp_path / ".lock").write_text(json.dumps(dead))
    with locked(tmp_path) as before:
        assert before == f"process {dead['pid']} on {dead['host']}, started now"


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_process_of_another_machine_holds_the_folder(tmp_path):
    there = {"pid": ended_process(), "host": "elsewhere", "start": "now"}
    (tmp_path / ".lock").write_text(json.dumps(there))
    for look in (refuse_if_locked, lambda folder: locked(folder).__enter__()):
        with pytest.raises(RunError, match=r"on elsewhere, .* for certain, remove .*/\.lock"):
            look(tmp_path)
    (tmp_path / ".lock").unlink()
    with locked(tmp_path) as before:
        assert before is None


def test_looking_changes_nothing(tmp_path):
    refuse_if_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        held = (tmp_path / ".lock").read_bytes()
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            refuse_if_locked(tmp_path)
        assert (tmp_path / ".lock").read_bytes() == held
    refuse_if_locked(tmp_path)


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path) as before:
        assert before is None
        with pytest.raises(RunError, match="in use by process unknown"):
            refuse_if_locked(tmp_path)


@pytest.mark.usefixtures("without_locks")
def test_a_container_that_starts_again_with_the_same_numbers_is_not_its_own_rival(tmp_path):
    before = {"pid": os.getpid(), "host": platform.node(), "start": "before"}
    (tmp_path / ".lock").write_text(json.dumps(before))
    with locked(tmp_path) as found:
        assert found == f"process {os.getpid()} on {platform.node()}, started before"
