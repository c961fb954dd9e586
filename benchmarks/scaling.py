"""How a training step's time grows with batch, tokens, width and depth, beside a model of its cost.

python benchmarks/scaling.py [--rounds 7] [--out FILE.json] [--plot FILE.png]

The model has two constants of the machine: seconds = FLOPs / rate + bytes / bandwidth. FLOPs are
those of `vit_jax.forward_flops`, three times; bytes are what passes through memory outside the
matrix products, by `traffic`. The constants are fitted to all points at once; what is told is by
how much each is off. The points take turns in one process, with the step that the trainer compiles.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import step_sides
from input_pipeline import environment

from vit_jax import ViT, forward_flops, parameter_count
from vit_jax.optim import OptimConfig

ADAMW = OptimConfig(schedule="constant", weight_decay=0.05, clip_norm=1.0)
PATCH, HEAD_DIM = 4, 32
ELEMENTS = 60
"""Numbers of a token's width that pass through memory in a layer, forward and back: norms, residual
sums, activation, and the products' inputs and outputs."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A training step of a plain ViT."""

    batch: int
    tokens: int
    width: int
    depth: int
    dtype: str = "float32"
    rehearse: bool = False

    def load(self) -> tuple[ViT, int, int, OptimConfig]:
        """As `train_step.Case`: model, image size, batch size and optimiser."""
        model = ViT(
            patch_size=PATCH,
            width=self.width,
            depth=self.depth,
            num_heads=self.width // HEAD_DIM,
            num_classes=10,
            pool="gap",
            dtype=self.dtype,
        )
        return model, PATCH * round(self.tokens**0.5), self.batch, ADAMW

    @property
    def flops(self) -> float:
        model, size, batch, _ = self.load()
        return 3.0 * batch * forward_flops(model, size)

    @property
    def traffic(self) -> float:
        """Bytes: activations, attention weights, and the state of AdamW read and written."""
        model, size, batch, _ = self.load()
        rows = batch * self.tokens * self.depth
        attention = 6 * (self.width // HEAD_DIM) * self.tokens
        return 4.0 * (rows * (ELEMENTS * self.width + attention) + 7 * parameter_count(model, size))


POINTS = (
    *(Point(16, tokens, width, 4) for tokens in (64, 256) for width in (96, 192, 384)),
    *(Point(batch, 64, 192, 4) for batch in (4, 64)),
    *(Point(16, 64, 192, depth) for depth in (2, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    seconds = measure(arguments.rounds)
    rate, bandwidth = fit(seconds)
    rows = [
        {
            **{name: getattr(point, name) for name in ("batch", "tokens", "width", "depth")},
            "seconds": taken,
            "reckoned": point.flops / rate + point.traffic / bandwidth,
        }
        for point, taken in zip(POINTS, seconds, strict=True)
    ]
    found = {
        "rate, GFLOP/s": rate / 1e9,
        "bandwidth, GB/s": bandwidth / 1e9,
        "furthest off": max(abs(row["reckoned"] / row["seconds"] - 1) for row in rows),
    }
    show(rows, found)
    if arguments.out:
        results = {
            "environment": environment(),
            "rounds": arguments.rounds,
            "load": os.getloadavg()[0],
            "model": found,
            "points": rows,
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


def measure(rounds: int) -> list[float]:
    """The median seconds of a step at each point."""
    sides = [step_sides.jax_side("ours", point) for point in POINTS]
    times: list[list[float]] = [[] for _ in POINTS]
    for number in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            began = time.perf_counter()
            side.wait(side.step())
            if number:  # the first compiles
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def fit(seconds: list[float]) -> tuple[float, float]:
    """The rate in FLOP/s and the bandwidth in B/s with the smallest squares of relative errors."""
    costs = np.array([[point.flops, point.traffic] for point in POINTS])
    relative = costs / np.array(seconds)[:, None]
    solution, *_ = np.linalg.lstsq(relative, np.ones(len(POINTS)), rcond=None)
    if (solution <= 0).any():
        raise SystemExit(f"no such model fits: {solution} seconds per FLOP and per byte")
    per_flop, per_byte = solution.tolist()
    return 1 / per_flop, 1 / per_byte


def show(rows: list[dict[str, Any]], found: dict[str, float]) -> None:
    print("| batch | tokens | width | depth | ms | reckoned |\n" + "| ---: " * 6 + "|")
    for row in rows:
        sizes = " | ".join(str(row[name]) for name in ("batch", "tokens", "width", "depth"))
        print(f"| {sizes} | {1e3 * row['seconds']:.1f} | {1e3 * row['reckoned']:.1f} |")
    for name, value in found.items():
        print(f"{name}: {value:.3g}")


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    reckoned, taken = ([1e3 * row[name] for row in rows] for name in ("reckoned", "seconds"))
    ends = np.array([min(reckoned + taken), max(reckoned + taken)])
    axes.fill_between(ends, ends / 1.2, ends * 1.2, color="0.9", label="within 20 %")
    axes.loglog(reckoned, taken, "o")
    # On alternating sides, from the largest on: neighbours would write over each other.
    by_size = sorted(zip(reckoned, taken, rows, strict=True), key=lambda point: -point[0])
    for number, (x, y, row) in enumerate(by_size):
        name = f"{row['batch']}x{row['tokens']}, {row['width']}x{row['depth']}"
        side: dict[str, Any] = {"xytext": (5, -8), "ha": "left"}
        if number % 2 == 0:
            side = {"xytext": (-5, 4), "ha": "right"}
        axes.annotate(name, (x, y), textcoords="offset points", fontsize=7, **side)
    axes.set(xlabel="reckoned, ms a step", ylabel="measured, ms a step")
    axes.set_title("batch x tokens, width x depth", fontsize=9)
    axes.legend()
    figure.savefig(file, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
