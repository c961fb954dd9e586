"""What checksums add to saving a checkpoint.

python benchmarks/checkpoint.py [--model B/16] [--rounds 9] [--out FILE.json]

A ViT with the state of AdamW, of random numbers, is saved with checksums and with the checksum of
every array replaced by a constant, in turns in one run; the medians of the rounds. Told apart are
the time until `save` returns, which is on the path of the steps, and the time until all is written.
The checksums alone, of the same arrays with nothing else going on, are timed as well.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from input_pipeline import environment, show

from vit_jax.models import vit
from vit_jax.optim import OptimConfig, make_optimizer
from vit_jax.runs import proof
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.train.state import init_state

CHECKSUM = proof.checksum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="B/16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    state = random_state(arguments.model)
    arrays = [proof.on_host(leaf) for leaf in jax.tree.leaves(state)]
    gigabytes = sum(array.nbytes for array in arrays) / 1e9
    found = {"state, GB": gigabytes} | compare(state, arrays, arguments.rounds)
    show(f"ViT-{arguments.model} and AdamW", found)
    if arguments.out:
        results = {
            "environment": environment(),
            "model": arguments.model,
            "rounds": arguments.rounds,
            "checkpoint": found,
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def random_state(size: str) -> Any:
    """A training's state in which no array compresses better than weights do."""
    model = vit(size).clone(num_classes=1000, image_size=224, channels=3)
    optimizer = make_optimizer(OptimConfig(), lambda step: 1e-3)
    shapes = jax.eval_shape(
        lambda key: init_state(model, optimizer, key, (224, 224, 3), ema=False), jax.random.key(0)
    )
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> jax.Array:
        if leaf.dtype != np.float32:
            return jax.numpy.zeros(leaf.shape, leaf.dtype)
        return jax.numpy.asarray(rng.standard_normal(leaf.shape, np.float32))

    return jax.tree.map(draw, shapes)


def compare(state: Any, arrays: list[np.ndarray], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for number in range(-1, rounds):
        for side, checksum in (("with", CHECKSUM), ("without", lambda array: "0" * 16)):
            blocking, whole = save(state, checksum)
            if number >= 0:  # the first is for warming up
                times.setdefault(f"{side} checksums: save returns after, s", []).append(blocking)
                times.setdefault(f"{side} checksums: all is written after, s", []).append(whole)
        began = time.perf_counter()
        for array in arrays:
            CHECKSUM(array)
        times.setdefault("the checksums alone, s", []).append(time.perf_counter() - began)
    found = {name: statistics.median(values) for name, values in times.items()}
    for what in ("save returns", "all is written"):
        one, other = (found[f"{side} checksums: {what} after, s"] for side in ("with", "without"))
        found[f"{what}: with / without"] = one / other
    for side in ("with", "without"):
        name = f"{side} checksums: all is written after, s"
        low, _, high = statistics.quantiles(times[name], n=4)
        found |= {f"{name}, lower quartile": low, f"{name}, upper quartile": high}
    alone, written = found["the checksums alone, s"], "without checksums: all is written after, s"
    return found | {"the checksums alone / a save without": alone / found[written]}


def save(state: Any, checksum: Any) -> tuple[float, float]:
    """Seconds until `save` returns, and until everything is on the disk."""
    folder = Path(tempfile.mkdtemp())
    proof.checksum = checksum
    checkpoints = Checkpoints(folder)
    began = time.perf_counter()
    checkpoints.save(1, state, {}, None)
    blocking = time.perf_counter() - began
    checkpoints.wait()
    whole = time.perf_counter() - began
    checkpoints.close()
    shutil.rmtree(folder)
    return blocking, whole


if __name__ == "__main__":
    main()
