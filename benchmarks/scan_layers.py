"""What `ViT.scan_layers` does to compiling a training step, and to running it.

python benchmarks/scan_layers.py [--depths 2 12 24] [--rounds 5] [--out FILE.json]

The step is the trainer's, of ViT-Ti/4 on images of 32 pixels, batch 64, compiled without a cache.
What is compiled for a depth then runs in turns, A B A B, and each step is timed; CPU seconds, of
all threads, stand beside the clock's, for machines on which other work runs. Memory is what the
program allocates while it runs, by the compiler's analysis.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from input_pipeline import environment
from memory import on_random_images

from vit_jax import vit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="*", default=[2, 12, 24])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    compare(1, 1)  # what is slow but once
    rows = [row for depth in arguments.depths for row in compare(depth, arguments.rounds)]
    print(
        "| depth | scan_layers | trace, s | compile, s (CPU) | step, ms (CPU) | temporary, MB |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: |"
    )
    for row in rows:
        print(
            f"| {row['depth']} | {row['scan_layers']} | {row['trace_seconds']:.1f} | "
            f"{row['compile_seconds']:.1f} ({row['compile_cpu_seconds']:.1f}) | "
            f"{row['step_seconds'] * 1e3:,.0f} ({row['step_cpu_seconds'] * 1e3:,.0f}) | "
            f"{row['temporary_bytes'] / 1e6:,.0f} |"
        )
    if arguments.out:
        results = {"environment": environment(), "rows": rows}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def compare(depth: int, rounds: int) -> list[dict[str, Any]]:
    """A row without and one with `scan_layers`."""
    programs = [compiled(depth, scan) for scan in (False, True)]
    times: tuple[list, list] = [], []
    for _ in range(rounds + 1):
        for program, taken in zip(programs, times, strict=True):
            started = time.perf_counter(), time.process_time()
            program["state"], _ = program["step"](program["state"], *program["images"])
            jax.block_until_ready(program["state"])
            ended = time.perf_counter(), time.process_time()
            taken.append([end - start for start, end in zip(started, ended, strict=True)])
    for program, taken in zip(programs, times, strict=True):
        # The first step lets the allocator settle.
        clock, cpu = map(statistics.median, zip(*taken[1:], strict=True))
        program["row"] |= {"step_seconds": clock, "step_cpu_seconds": cpu}
    return [program["row"] for program in programs]


def compiled(depth: int, scan_layers: bool) -> dict[str, Any]:
    """A training step and what it takes, and a row of what compiling it took."""
    from vit_jax.train.memory import lower_train_step, setting_of

    model = vit("Ti/4", num_classes=None).clone(depth=depth, scan_layers=scan_layers)
    job = on_random_images(32, model=model, batch_size=64)
    started = time.perf_counter()
    lowered = lower_train_step(job, setting_of(job))
    traced, traced_cpu = time.perf_counter(), time.process_time()
    step = lowered.compile()
    row = {
        "depth": depth,
        "scan_layers": scan_layers,
        "trace_seconds": traced - started,
        "compile_seconds": time.perf_counter() - traced,
        "compile_cpu_seconds": time.process_time() - traced_cpu,
        "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
    }
    plan = jax.device_put(job.train_feed.plan(0), step.input_shardings[0][2])
    images = job.train_feed.resident, plan
    return {"row": row, "step": step, "state": job.initial_state(), "images": images}


if __name__ == "__main__":
    main()
