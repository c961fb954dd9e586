"""What a training step needs of memory: as reckoned before it runs, and as the process took it.

python benchmarks/memory.py [--out FILE.json]

For each training a process of its own reckons (`vit_jax.train.memory`: what `vit-jax doctor` says
of it), runs a step, begins anew, runs three, and tells the most memory it had meanwhile, less
what it had before: on a GPU by the device's own count, on a CPU by the operating system's.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

from input_pipeline import environment

from vit_jax import vit
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.optim import OptimConfig

TRAININGS = {
    "plain": {},
    "twice the batch": {"batch_size": 64},
    "accumulate_steps=4": {"accumulate_steps": 4},
    "remat=dots": {"model": {"remat": "dots"}},
    "remat=full": {"model": {"remat": "full"}},
    "scan_layers": {"model": {"scan_layers": True}},
    "scan_layers, remat=full": {"model": {"scan_layers": True, "remat": "full"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, changes in TRAININGS.items():
        with context.Pool(1) as pool:
            rows.append({"training": name} | pool.apply(measure, (changes,)))
    print("| ViT-Ti/4 on 64 px | reckoned, MB | taken, MB | ratio |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        reckoned, taken = row["reckoned_bytes"], row["taken_bytes"]
        print(
            f"| {row['training']} | {reckoned / 1e6:,.0f} | {taken / 1e6:,.0f} | "
            f"{taken / reckoned:.2f} |"
        )
    if arguments.out:
        results = {"environment": environment(), "trainings": rows}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def measure(changes: dict[str, Any]) -> dict[str, float]:
    """Bytes that one training step was reckoned to need, and that it took."""
    import jax

    from vit_jax.train.memory import measure as reckon
    from vit_jax.train.memory import resident_bytes

    changes = {"batch_size": 32} | changes
    model = vit("Ti/4", num_classes=None, **changes.pop("model", {}))
    job = on_random_images(64, model=model, **changes)
    reckoned = reckon(job)
    if reckoned is None:
        raise SystemExit("this backend does not tell what its programs need")
    feed = job.train_feed
    # What follows finds the compiled step in the cache: compiling takes memory of its own.
    jax.block_until_ready(job.train_step(job.initial_state(), feed.resident, feed.plan(0)))
    before = bytes_in_use(most=False) - resident_bytes(job)
    state = job.initial_state()
    for step in range(3):
        state, _ = job.train_step(state, feed.resident, feed.plan(step))
    jax.block_until_ready(state)
    return {"reckoned_bytes": reckoned.total, "taken_bytes": bytes_in_use(most=True) - before}


def on_random_images(size: int, **fields: Any) -> Any:
    """A training of three steps on 64 images of so many pixels a side; `fields` of its `Config`."""
    import tempfile

    import numpy as np

    from vit_jax.train.setup import set_up

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, size, size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", images=images, labels=np.arange(64) % 4)
        data = DataConfig(
            name="arrays",
            root=f"{folder}/data.npz",
            train_split="train",
            eval_split=None,
            test_split=None,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        )
        return set_up(Config(data=data, optim=OptimConfig(), steps=3, **fields))


def bytes_in_use(most: bool) -> int:
    """Bytes on the first device, now or at most; of a CPU those of the process.

    Asking for what is in use now begins the count of the most anew, on a CPU.
    """
    import jax

    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use" if most else "bytes_in_use"]
    if most:
        return of_process("VmHWM")
    # A program's buffers are given back a little after its results are there.
    seen = [of_process("VmRSS")]
    while len(seen) < 5 or min(seen[-5:]) < max(seen[-5:]):
        time.sleep(0.1)
        seen.append(of_process("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5")
    return seen[-1]


def of_process(name: str) -> int:
    """Bytes that the operating system counts for this process under this name."""
    status = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
