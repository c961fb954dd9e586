"""Trainings as processes of their own, which tests kill, stop and start again."""

import dataclasses
import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from vit_jax import ViT
from vit_jax.config import Config, to_json
from vit_jax.data.source import DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig
from vit_jax.runs.metrics import read_rows
from vit_jax.weights.run_folder import load_run

ROOT = Path(__file__).parents[2]
DEADLINE = 300
"""Seconds after which what is waited for will not come."""


def small_config(**changes):
    """Digits, a tiny ViT with everything random switched on; checkpoints every few steps."""
    rates = dict.fromkeys(("dropout", "attention_dropout", "embed_dropout", "drop_path"), 0.1)
    config = Config(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2, mlp_dim=32, **rates),
        data=DataConfig(name="digits", train_split="train[:640]", eval_split="train[1380:]"),
        augment=AugmentConfig(crop_padding=1, flip="random", mixup=0.8, cutmix=1.0),
        optim=OptimConfig(
            learning_rate=3e-3, warmup_epochs=0.1, weight_decay=0.1, clip_norm=1.0, ema_decay=0.9
        ),
        label_smoothing=0.1,
        batch_size=32,
        steps=60,
        checkpoint_every_epochs=0.2,  # 4 steps
        eval_every_epochs=1.0,
        log_every_steps=1,
        pictures=False,
        device="cpu",
    )
    return dataclasses.replace(config, **changes)


def write_config(folder, config):
    path = folder / "config.json"
    path.write_text(to_json(config))
    return path


def share_compiled(folder):
    """Environment variables by which processes find in a folder what others have compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def environment(devices=1):
    """The environment of a process with so many devices; it compiles as quickly as this one."""
    quick = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in quick if "device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return os.environ | {"XLA_FLAGS": " ".join(flags)}


def start(config_path, workdir, *arguments, devices=1, largest_file=None, **options):
    """`python train.py`, as people start it, its output on a pipe.

    `largest_file`: bytes beyond which no file of the process can grow, as on a full disk.
    """
    limited = [] if largest_file is None else ["-c", LIMITED, str(largest_file)]
    return subprocess.Popen(
        [
            *(sys.executable, *limited, "train.py", "--config", str(config_path)),
            *(f"--workdir={workdir}", *arguments),
        ],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def free_port():
    """A port of this machine that nobody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start_several(config_path, workdir, *arguments, number=2, devices=2, **options):
    """As many processes of `python train.py` that train as one, each with so many devices."""
    address = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        start(
            *(config_path, workdir, *arguments, address, f"--num-processes={number}"),
            *(f"--process-id={index}", "--peer-timeout=10"),
            devices=devices,
            **options,
        )
        for index in range(number)
    ]


def finish_several(config_path, workdir, *arguments, **options):
    """Start them and wait for a good end of all; returns their outputs."""
    ends = [end(process) for process in start_several(config_path, workdir, *arguments, **options)]
    assert [code for code, _ in ends] == [0] * len(ends), ends
    return [output for _, output in ends]


def end(process):
    """Wait for the end of a process; returns its exit code and its output."""
    output, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, output


def run_python(code):
    """Run some lines of Python in a process of their own; returns exit code and output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def run(config_path, workdir, *arguments, **options):
    """Start and wait; returns exit code and output."""
    return end(start(config_path, workdir, *arguments, **options))


def finish(config_path, workdir, *arguments, **options):
    """Start and wait for a good end; returns the output."""
    code, output = run(config_path, workdir, *arguments, **options)
    assert code == 0, output
    return output


def wait_until(happened, process):
    """Look again and again until a condition holds; the process has to live meanwhile."""
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def newest_row(workdir):
    """The last step that the metrics know of."""
    return max((row["step"] for row in read_rows(workdir)), default=0)


def after_step(workdir, step):
    return lambda: newest_row(workdir) > step


def losses(workdir, split="train"):
    return {row["step"]: row["loss"] for row in read_rows(workdir) if row["split"] == split}


def assert_same_curves(one, other):
    """Every loss of two runs is equal, to the last bit."""
    for split in ("train", "train-epoch", "eval", "test"):
        assert losses(one, split)
        assert losses(one, split) == losses(other, split), split


def fingerprint(workdir):
    """sha256 of the newest weights."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_run(workdir).params)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def children(pid):
    """The processes that a process has started, by their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == pid:
                found[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
    return found
