"""Memory that runs out, and what going on needs of it: in real processes, under real limits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vit_jax.weights.run_folder import load_run

ROOT = Path(__file__).parents[2]
# train.py in so many bytes of address space, and at its end what the kernel says of the process.
PROGRAM = """
import resource, sys
from pathlib import Path
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from vit_jax.cli import train_command
code = train_command(sys.argv[2:])
print(Path("/proc/self/status").read_text())
sys.exit(code)
"""
COMMON = (
    *("--config", "configs/digits.py", "--config.device=cpu", "--config.pictures=False"),
    *("--config.data.eval_split=None", "--config.data.test_split=None"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]


def train(folder, *arguments, address_space=-1):
    """Run train.py to its end, in at most so many bytes of address space; -1: without a limit."""
    command = (sys.executable, "-c", PROGRAM, str(address_space), *COMMON, *arguments)
    return subprocess.run(
        [*command, f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def kernel_says(process, name):
    """Bytes, such as VmHWM, the largest resident set."""
    assert process.returncode == 0, process.stderr
    found = re.search(rf"{name}:\s+(\d+) kB", process.stdout)
    return int(found[1]) * 1024


@pytest.mark.long
@pytest.mark.fault(
    "A step asks for more memory than the process may have",
    "Exit code 1: the message names a batch that fits and the flags that need less memory, and the "
    "newest checkpoint is as it was",
)
def test_r28_out_of_memory_names_the_batch_that_fits(tmp_path):
    # Attention of 64 tokens and 8 heads, in two blocks: more than a megabyte an image.
    model = ("--config.model.patch_size=1", "--config.model.depth=2", "--config.model.num_heads=8")
    arguments = (*model, "--config.batch_size=768")
    first = train(tmp_path / "run", *arguments, "--config.steps=1")
    before = load_run(tmp_path / "run")
    assert first.returncode == 0, first.stderr
    # What a process has that computes next to nothing (one keeps what a step frees), and two thirds
    # of what the step needs besides.
    idle = train(tmp_path / "idle", *model, "--config.batch_size=4", "--config.steps=1")
    needs = kernel_says(first, "VmHWM") - kernel_says(idle, "VmHWM")
    assert needs > 500_000_000
    room = kernel_says(idle, "VmSize") + 2 * needs // 3
    print(f"a step needs {needs / 1e9:.2f} GB")
    full = train(tmp_path / "run", *arguments, "--config.steps=2", address_space=room)
    assert full.returncode == 1, full.stdout + full.stderr
    assert "Traceback" not in full.stderr
    assert re.search(
        r"Out of memory on cpu with batch_size=768, asking for [\d.]+ [GM]B", full.stderr
    )
    fits = re.search(r"--config\.batch_size=(\d+), which fits", full.stderr)
    assert fits, full.stderr
    assert 100 < int(fits[1]) < 768
    assert re.search(r"--config\.accumulate_steps=[234],", full.stderr)
    assert "--config.model.remat=full" in full.stderr
    after = load_run(tmp_path / "run")
    assert after.step == before.step == 1
    for name, leaf in before.params["head"].items():
        np.testing.assert_array_equal(after.params["head"][name], leaf)
    smaller = train(
        *(tmp_path / "other", *model, "--config.steps=1", f"--config.batch_size={fits[1]}"),
        address_space=room,
    )
    assert smaller.returncode == 0, smaller.stderr


@pytest.mark.long
@pytest.mark.fault(
    "A training whose state is large goes on from its checkpoint",
    "It needs no more memory than it did when it began",
)
def test_r29_going_on_takes_no_more_memory_than_beginning(tmp_path):
    # 14 million parameters: with AdamW and the moving average 0.23 GB of state.
    model = ("--config.model.width=768", "--config.model.depth=2", "--config.model.mlp_dim=3072")
    arguments = (*model, "--config.batch_size=8")
    first = train(tmp_path, *arguments, "--config.steps=1")
    second = train(tmp_path, *arguments, "--config.steps=2")
    assert "Going on from the checkpoint at step 1" in second.stdout
    peaks = [kernel_says(process, "VmHWM") for process in (first, second)]
    assert peaks[0] > 400_000_000
    assert peaks[1] < 1.1 * peaks[0], [f"{peak / 1e6:.0f} MB" for peak in peaks]
