"""The losses of one training on 1, 2 and 8 devices: under jit, under pmap, with a state in shares,
and of two processes.

python benchmarks/multi_device.py [--steps 20] [--out benchmarks/results/multi_device.json]

On a machine without 8 accelerators the devices are fake ones of the CPU, so this says that the
numbers are the same, and nothing about speed. The model has no dropout, whose masks pmap draws per
device; crops and flips are on. Arrays of this small model are shared from 64 elements on.
"""

import argparse
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from input_pipeline import environment

BAR = 1e-5
"""The largest difference that is only the order of sums."""
DEVICES = 8
KINDS = {
    "jit, 1 device": {"devices": 1},
    "jit, 2 devices": {"devices": 2},
    "jit, 8 devices": {"devices": 8},
    "pmap, 1 device": {"devices": 1, "parallel": "pmap"},
    "pmap, 2 devices": {"devices": 2, "parallel": "pmap"},
    "pmap, 8 devices": {"devices": 8, "parallel": "pmap"},
    "fsdp=2, 2 devices": {"devices": 2, "fsdp": 2},
    "fsdp=4, 8 devices": {"devices": 8, "fsdp": 4},
    "fsdp=8, 8 devices": {"devices": 8, "fsdp": 8},
}
SEVERAL = {
    "jit, 2 processes of 2": {"devices": 4},
    "fsdp=4, 2 processes of 2": {"devices": 4, "fsdp": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--process", nargs=2, metavar=("ADDRESS", "INDEX"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        address, index = arguments.process
        in_process(arguments.steps, address, int(index))
        return
    fake_devices(DEVICES)
    found = {name: losses(arguments.steps, **kind) for name, kind in KINDS.items()}
    found |= several_processes(arguments.steps)
    expected = found["jit, 1 device"]
    differences = {name: largest(found[name], expected) for name in found}
    show(found, differences)
    results = {
        "environment": environment() | {name: version(name) for name in ("flax", "optax")},
        "steps": arguments.steps,
        "bar": BAR,
        "largest difference": max(differences.values()),
        "differences": differences,
        "losses": found,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if not max(differences.values()) <= BAR:
        sys.exit(f"the losses differ by {max(differences.values()):.1e}, more than {BAR:.0e}")


def fake_devices(number: int) -> None:
    """Before jax is imported: so many devices of the CPU, where there are no others."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={number}"


def losses(steps: int, devices: int, parallel: Any = "auto", fsdp: int = 1) -> list[float]:
    """Of a training from its first step on."""
    import jax

    from vit_jax import ViT, sharding
    from vit_jax.config import Config
    from vit_jax.data.source import DataConfig
    from vit_jax.ops.augment import AugmentConfig
    from vit_jax.optim import OptimConfig
    from vit_jax.train import setup

    sharding.SMALLEST = 64
    setup.select_devices = lambda device: jax.devices()[:devices]
    config = Config(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2, mlp_dim=32),
        data=DataConfig(name="digits", train_split="train[:600]"),
        augment=AugmentConfig(crop_padding=1, flip="random"),
        optim=OptimConfig(
            learning_rate=3e-3, warmup_epochs=0.1, weight_decay=0.1, clip_norm=1.0, ema_decay=0.9
        ),
        label_smoothing=0.1,
        batch_size=64,  # of 600 images: the last batch of an epoch is padded
        steps=steps,
        parallel=parallel,
        fsdp=fsdp,
    )
    job = setup.set_up(dataclasses.replace(config, pictures=False))
    state, found = job.initial_state(), []
    for step in range(steps):
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        found.append(float(metrics["loss"]))
    return found


def several_processes(steps: int) -> dict[str, list[float]]:
    """What two processes with two fake devices each find, as the first tells it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [sys.executable, __file__, f"--steps={steps}", "--process", address]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    started = [
        subprocess.Popen([*command, str(index)], env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for index in range(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit("the two processes have failed")
    return json.loads(outputs[0].splitlines()[-1])


def in_process(steps: int, address: str, index: int) -> None:
    """One of two processes."""
    from vit_jax.launch import Place
    from vit_jax.processes import joined

    with joined(Place(2, index, address), join_seconds=120):
        found = {name: losses(steps, **kind) for name, kind in SEVERAL.items()}
        print(json.dumps(found))


def largest(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def show(found: dict[str, list[float]], differences: dict[str, float]) -> None:
    steps = len(next(iter(found.values())))
    shown = sorted({0, steps // 4, steps // 2, steps - 1})
    print(f"\n| | {' | '.join(f'loss {step + 1}' for step in shown)} | largest difference |")
    print(f"| --- |{' ---: |' * (len(shown) + 1)}")
    for name, values in found.items():
        numbers = " | ".join(f"{values[step]:.6f}" for step in shown)
        print(f"| {name} | {numbers} | {differences[name]:.1e} |")
    print(f"\nOver {steps} steps the largest difference is {max(differences.values()):.1e}")


if __name__ == "__main__":
    main()
