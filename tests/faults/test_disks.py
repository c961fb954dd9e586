"""Disks that are full and files that cannot be written."""

import shutil
from collections import namedtuple

import jax
import pytest
from faults import processes

from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError, RunFolder
from vit_jax.train import resume
from vit_jax.train.loop import train
from vit_jax.train.setup import set_up
from vit_jax.weights.run_folder import load_run


def steps_of(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


@pytest.fixture
def wide(tmp_path):
    """A config whose checkpoints have a file of more than a megabyte, and no other file has."""
    model = processes.small_config().model.clone(width=128, mlp_dim=512)
    return processes.write_config(tmp_path, processes.small_config(model=model, steps=12))


@pytest.mark.slow
@pytest.mark.fault(
    "the disk takes no more (a limit on the size of files) while a run saves its third checkpoint",
    "exit code 1 with the step, the folder and the free space; the two before are whole",
)
def test_r6_a_full_disk_costs_no_committed_step(wide, tmp_path):
    folder = tmp_path / "run"
    processes.finish(wide, folder, "--config.steps=8")
    assert steps_of(folder) == [4, 8]
    code, output = processes.run(wide, folder, largest_file=300_000)
    assert code == 1, output
    assert f"Error: checkpoint 12 could not be written to {folder}/checkpoints (" in output
    assert "MB are free; the newest good one is step 8" in output
    assert f"the same command with --workdir={folder} goes on from there" in output
    assert "(File too large); it takes up to" in output
    assert "Traceback" not in output
    assert steps_of(folder) == [4, 8]
    for step in (4, 8):
        load_run(folder, step)  # which compares every array with its checksum
    output = processes.finish(wide, folder)
    assert "Going on from the checkpoint at step 8" in output


@pytest.mark.slow
@pytest.mark.fault(
    "the only checkpoint there is to be, saved as the training ends, cannot be written",
    "exit code 1, not 0: the run says that there is no checkpoint",
)
def test_r7_a_failed_last_save_is_a_failed_run(wide, tmp_path):
    folder = tmp_path / "run"
    code, output = processes.run(wide, folder, "--config.steps=3", largest_file=300_000)
    assert code == 1, output
    assert "checkpoint 3 could not be written" in output
    assert "there is no older one" in output
    assert steps_of(folder) == []
    assert not (folder / "summary.json").exists()


@pytest.mark.fault(
    "the disk has less room than the checkpoints to keep and one more need",
    "the training does not begin; both sizes are named",
)
def test_r6_room_is_looked_for_before_the_first_step(tmp_path, monkeypatch):
    job = set_up(processes.small_config())
    usage = namedtuple("usage", "total used free")
    arrays = jax.tree.leaves(job.state_shapes)
    size = sum(array.size * array.dtype.itemsize for array in arrays)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4 * size - 1))
    with pytest.raises(RunError, match=r"MB are free, and 4 checkpoints of .* MB need "):
        train(job, RunFolder(tmp_path / "run"))
    assert steps_of(tmp_path / "run") == []
    # With just enough it begins: nothing else is asked for.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4 * size))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    resume.check_space(job, RunFolder(tmp_path / "run"), checkpoints)
    checkpoints.close()


@pytest.mark.fault(
    "the run folder is a file, or lies under one",
    "exit code 2 before anything is compiled; the path and --workdir are named",
)
@pytest.mark.parametrize("below", ["", "run"])
def test_r25_a_folder_that_cannot_be_made(config_path, tmp_path, below):
    file = tmp_path / "file"
    file.write_text("mine")
    code, output = processes.run(config_path, file / below)
    assert code == 2, output
    assert f"the run folder {file / below} cannot be written" in output
    assert "choose another with --workdir" in output
    assert "Traceback" not in output
    assert file.read_text() == "mine"
