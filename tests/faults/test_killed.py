"""Processes that are killed; runs that go on end, to the bit, as uninterrupted ones."""

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest
from data.small_cifar import prepare_small, small_cifar10
from faults import processes
from faults.kill_anywhere import kill_anywhere

from vit_jax.data.source import DataConfig

# Each of them starts several processes.
pytestmark = pytest.mark.slow


@pytest.mark.fault(
    "SIGKILL at four random moments of a run, some of them inside a save and some outside",
    "each start goes on from the newest checkpoint; losses and weights end equal to the last bit",
)
def test_r1_killed_anywhere_and_gone_on_with_is_the_uninterrupted_run(tmp_path):
    report = kill_anywhere(tmp_path, kills=4)
    assert sum(kill["killed"] for kill in report["kills"]) == 4
    assert 1 <= sum(kill["in_save"] for kill in report["kills"]) <= 3
    assert len({kill["step"] for kill in report["kills"]}) >= 3


@pytest.mark.fault(
    "the unfinished folder of a save that SIGKILL ended, as it stays behind",
    "the next start sweeps it away and goes on from the checkpoint before",
)
def test_r1_what_a_killed_save_leaves_is_swept_away(config_path, tmp_path):
    folder = tmp_path / "run"
    processes.finish(config_path, folder, "--config.steps=8")
    leftover = folder / "checkpoints" / "12.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    (leftover / "state" / "half").write_bytes(bytes(1000))
    output = processes.finish(config_path, folder, "--config.steps=16")
    assert "Going on from the checkpoint at step 8" in output
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert not leftover.exists()
    assert all(name.isdecimal() for name in names), names


@pytest.mark.fault(
    "a second training is started in the folder of a running one",
    "it is refused with the pid, the machine and the start of the first, which goes on undisturbed",
)
def test_r12_two_runs_do_not_share_a_folder(config_path, whole, tmp_path):
    folder = tmp_path / "run"
    first = processes.start(config_path, folder)
    processes.wait_until(processes.after_step(folder, 4), first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second has looked
    code, output = processes.run(config_path, folder)
    first.send_signal(signal.SIGCONT)
    assert code == 2, output
    assert re.search(rf"in use by process {first.pid} on \S+, started 20\d\d-", output)
    assert "choose another --workdir" in output
    assert "Traceback" not in output
    code, output = processes.end(first)
    assert code == 0, output
    processes.assert_same_curves(folder, whole)


@pytest.mark.fault(
    "a training is killed and leaves its lock file behind",
    "the next start says so and takes the folder; a lock on a file that nobody holds is stale",
)
def test_r12_a_stale_lock_is_recognised(config_path, tmp_path):
    folder = tmp_path / "run"
    first = processes.start(config_path, folder)
    processes.wait_until(processes.after_step(folder, 4), first)
    first.kill()
    processes.end(first)
    assert json.loads((folder / ".lock").read_text())["pid"] == first.pid
    output = processes.finish(config_path, folder)
    assert f"NOTE: the run before was cut off without an end (process {first.pid} on " in output
    assert json.loads((folder / ".lock").read_text()) == {}


@pytest.mark.long
@pytest.mark.fault(
    "one run on 1 device, stopped, on 4 devices, stopped, on 2 devices to its end",
    "every loss is within 1e-5 of those of an uninterrupted run on one device",
)
def test_r19_a_run_goes_on_with_other_devices(config_path, whole, tmp_path):
    folder = tmp_path / "run"
    for stop, devices in ((20, 1), (40, 4)):
        process = processes.start(config_path, folder, devices=devices)
        processes.wait_until(processes.after_step(folder, stop), process)
        process.send_signal(signal.SIGTERM)
        code, output = processes.end(process)
        assert code == 143, output
        assert f" on {devices} cpu" in output
    processes.finish(config_path, folder, devices=2)
    for split in ("train", "eval", "test"):
        expected = processes.losses(whole, split)
        assert processes.losses(folder, split) == pytest.approx(expected, rel=1e-5), split


@pytest.mark.fault(
    "a TFDS set is trained on beside a TensorFlow that ends any process it is loaded in",
    "the training ends well: TensorFlow was never loaded, so it cannot take the GPU's memory",
)
def test_r27_tensorflow_is_never_loaded(tmp_path):
    planted = tmp_path / "installed" / "tensorflow"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text("import os\nos._exit(77)\n")
    (tmp_path / "set").mkdir()
    cifar = prepare_small("cifar10", small_cifar10, tmp_path / "set")
    data = DataConfig(
        name="cifar10",
        root=str(cifar.root),
        train_split="train",
        eval_split="test",
        test_split="test",
    )
    path = processes.write_config(tmp_path, processes.small_config(data=data, steps=2))
    environment = processes.environment() | {"PYTHONPATH": str(planted.parent)}
    loads = [sys.executable, "-c", "import tensorflow"]
    assert subprocess.run(loads, env=environment, check=False).returncode == 77
    done = subprocess.run(
        [sys.executable, "train.py", "--config", str(path), f"--workdir={tmp_path / 'run'}"],
        cwd=processes.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_examples"] == 20


@pytest.mark.fault(
    "SIGTERM, and then the command that the run prints",
    "the printed command goes on from the step that was saved and ends like an uninterrupted run",
)
def test_r2_r18_the_printed_command_goes_on(config_path, whole, tmp_path):
    folder = tmp_path / "run"
    process = processes.start(config_path, folder)
    processes.wait_until(processes.after_step(folder, 10), process)
    process.send_signal(signal.SIGTERM)
    code, output = processes.end(process)
    assert code == 143, output
    stopped = processes.newest_row(folder)
    assert f"Stopped at step {stopped}, saved. Go on with:" in output
    assert (folder / "checkpoints" / str(stopped)).is_dir()
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:2] == ["python", "train.py"]
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=processes.ROOT,
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Going on from the checkpoint at step {stopped}" in done.stdout
    processes.assert_same_curves(folder, whole)
    assert processes.fingerprint(folder) == processes.fingerprint(whole)
