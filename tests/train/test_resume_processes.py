"""Real processes, really stopped: the run that goes on is the uninterrupted one, bit for bit."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax.runs.metrics import read_rows
from vit_jax.train.restore import load_run

ROOT = Path(__file__).parents[2]
STEPS = 150
COMMAND = [
    *(sys.executable, "train.py", "--config", "configs/digits.py", f"--config.steps={STEPS}"),
    *("--config.model.depth=1", "--config.model.width=16", "--config.model.num_heads=2"),
    *("--config.model.dropout=0.1", "--config.model.drop_path=0.1"),
    *("--config.log_every_steps=1", "--config.checkpoint_every_epochs=0.3"),
    "--config.device=cpu",
]


def start(folder):
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.Popen(
        [*COMMAND, f"--workdir={folder}", "--resume=auto"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder):
    process = start(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def stop_after(folder, step, number):
    """Send a signal once the run has written a row beyond `step`; return exit code and output."""
    process = start(folder)
    deadline = time.monotonic() + 300
    while max((row["step"] for row in read_rows(folder)), default=0) <= step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def losses(folder):
    return [(row["step"], row["loss"]) for row in read_rows(folder) if row["split"] == "train"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder)
    return folder


def assert_same_run(folder, expected):
    assert [step for step, _ in losses(expected)] == list(range(1, STEPS + 1))
    assert losses(folder) == losses(expected)

    def fingerprint(params):
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
        return hashlib.sha256(b"".join(leaves)).hexdigest()

    assert fingerprint(load_run(folder).params) == fingerprint(load_run(expected).params)


@pytest.mark.slow
def test_killed_and_resumed(uninterrupted, tmp_path):
    code, _ = stop_after(tmp_path, 60, signal.SIGKILL)
    assert code == -signal.SIGKILL
    output = finish(tmp_path)
    assert "Going on from the checkpoint at step" in output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_and_resumed(uninterrupted, tmp_path, number, code):
    found, output = stop_after(tmp_path, 40, number)
    assert found == code, output
    assert "saved. Go on with:" in output
    assert f"--workdir={tmp_path}" in output
    stopped_at = max(row["step"] for row in read_rows(tmp_path))
    assert stopped_at < STEPS
    output = finish(tmp_path)
    # Saved on being asked, so that no step is lost.
    assert f"Going on from the checkpoint at step {stopped_at}" in output
    assert_same_run(tmp_path, uninterrupted)
