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
from vit_jax.weights.run_folder import load_run

ROOT = Path(__file__).parents[2]
STEPS = 150
COMMAND = [
    *(sys.executable, "train.py", "--config", "configs/digits.py", f"--config.steps={STEPS}"),
    *("--config.model.depth=1", "--config.model.width=16", "--config.model.num_heads=2"),
    *("--config.model.dropout=0.1", "--config.model.drop_path=0.1"),
    *("--config.log_every_steps=1", "--config.checkpoint_every_epochs=0.3"),
    "--config.eval_every_epochs=1",
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


def losses(folder, split):
    return [(row["step"], row["loss"]) for row in read_rows(folder) if row["split"] == split]


def fingerprint(folder):
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_run(folder).params)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


@pytest.mark.slow
def test_stopped_three_times_and_resumed_is_the_uninterrupted_run(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(whole)

    code, _ = stop_after(parts, 30, signal.SIGKILL)
    assert code == -signal.SIGKILL
    for step, number, expected in ((60, signal.SIGTERM, 143), (90, signal.SIGINT, 130)):
        code, output = stop_after(parts, step, number)
        assert code == expected, output
        assert "Going on from the checkpoint at step" in output
        assert "saved. Go on with:" in output
        assert f"--workdir={parts}" in output
    stopped_at = max(row["step"] for row in read_rows(parts))
    assert 90 < stopped_at < STEPS
    # Saved on being asked, so that no step is lost.
    assert f"Going on from the checkpoint at step {stopped_at}" in finish(parts)

    assert [step for step, _ in losses(whole, "train")] == list(range(1, STEPS + 1))
    for split in ("train", "train-epoch", "eval", "test"):
        assert losses(whole, split)
        assert losses(parts, split) == losses(whole, split), split
    assert fingerprint(parts) == fingerprint(whole)
