"""Our training step beside plain PyTorch, the usual Flax and timm: images per second, in turns.

python benchmarks/train_step.py --quick [--out benchmarks/results/train_step.json]
python benchmarks/train_step.py --gpu [--timm] [--out benchmarks/results/train_step_gpu.json]
python benchmarks/train_step.py --shapes Ti/16 --dtypes float32 bfloat16 [--compile] [--rounds 9]

--quick is for a CPU and takes about two minutes, --gpu for one GPU (bfloat16, with torch.compile);
--rehearse runs either with tiny batches and models, to see that all of it works.

Every side is a process of its own, which waits while another one works: so no side's idle threads
slow another, and none gets another's allocator. The sides take turns, A B A B; what is printed are
medians and quartiles. CPU seconds, of all threads, stand beside the clock's: where other work runs
on the machine, they alone can be compared. "ours" is `vit_jax.train.step.train_step` as the trainer
compiles it, its settings of the allocator included; "usual Flax" is the same step with the model of
`usual_flax.py` in place of ours and without those settings; PyTorch is `plain_pytorch.py`. Before
it times anything a side computes logits with one set of parameters, which have to agree.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from input_pipeline import environment

from vit_jax import ViT, forward_flops, vit
from vit_jax.config import load_config
from vit_jax.optim import OptimConfig

CONFIGS = Path(__file__).parents[1] / "configs"
ADAMW = OptimConfig(schedule="constant", weight_decay=0.05, clip_norm=1.0)
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "embed_dropout": 0.0}


@dataclasses.dataclass(frozen=True)
class Case:
    """What all sides compute."""

    shape: str
    dtype: str = "float32"
    batch_size: int = 0
    """0: the shape's own."""
    rehearse: bool = False

    def load(self) -> tuple[ViT, int, int, OptimConfig]:
        """Model, image size, batch size and optimiser."""
        if self.shape.startswith("tutorial"):
            config = load_config(CONFIGS / "tutorial_cifar10.py")
            dropout = {} if self.shape == "tutorial" else NO_DROPOUT
            model = config.model.clone(num_classes=10, **dropout)
            found = model, 32, config.batch_size, config.optim
        else:
            small = self.shape.endswith("/4")
            batch = {"Ti/16": 16, "S/4": 1024, "S/16": 256, "B/16": 128}[self.shape]
            model = vit(self.shape, 10 if small else 1000)
            found = model, 32 if small else 224, batch, ADAMW
        model, size, batch, optim = found
        if self.rehearse:
            model, batch = model.clone(depth=1, width=48, num_heads=3, mlp_dim=96, head_dim=16), 2
        return model.clone(dtype=self.dtype), size, self.batch_size or batch, optim


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="what two CPU cores can do")
    parser.add_argument("--gpu", action="store_true", help="bfloat16, S/16, B/16, S/4")
    parser.add_argument("--rehearse", action="store_true", help="the same, tiny")
    parser.add_argument("--shapes", nargs="*", help="tutorial, tutorial-no-dropout, Ti/16, …")
    parser.add_argument("--dtypes", nargs="*", help="float32, bfloat16")
    parser.add_argument("--sides", nargs="*", help="ours, 'usual Flax', 'PyTorch eager', …")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a side of its own")
    parser.add_argument("--timm", action="store_true", help="timm's model as a side of its own")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="in each turn")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    quick = ["tutorial", "tutorial-no-dropout", "Ti/16"]
    shapes = arguments.shapes or (["S/16", "B/16", "S/4"] if arguments.gpu else quick)
    dtypes = arguments.dtypes or ["bfloat16" if arguments.gpu else "float32"]
    results: dict[str, Any] = {"environment": environment() | torch_version(), "cases": []}
    for shape in shapes:
        for dtype in dtypes:
            case = Case(shape, dtype, arguments.batch_size, arguments.rehearse)
            results["cases"].append(compare(case, chosen_sides(arguments, shape), arguments))
            show(results["cases"][-1])
            if arguments.out:
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def chosen_sides(arguments: argparse.Namespace, shape: str) -> list[str]:
    if arguments.sides:
        return arguments.sides
    sides = ["ours", "usual Flax", "PyTorch eager"]
    if arguments.compile or arguments.gpu:
        sides.append("PyTorch compiled")
    if arguments.timm and shape.endswith("/16"):
        sides += ["timm eager", "timm compiled"]
    return sides


def torch_version() -> dict[str, str]:
    from importlib.metadata import version

    return {"torch": version("torch"), "flax": version("flax"), "optax": version("optax")}


# The process that asks


def compare(case: Case, names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of every side in turns, as medians and quartiles, and what they amount to."""
    context = multiprocessing.get_context("spawn")
    sides, logits = {}, {}
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, name, case), daemon=True)
        process.start()
        sides[name] = (process, here)
        logits[name] = here.recv()
        if isinstance(logits[name], str):
            raise SystemExit(f"{name}: {logits[name]}")
    rounds = arguments.rounds or (3 if case.rehearse else 7)
    steps = arguments.steps or (20 if arguments.gpu and not case.rehearse else 1)
    kinds = "matmul", "forward", "step"
    times = {(kind, name): [] for name in names for kind in kinds}
    for round_number in range(rounds + 1):
        for name, (_, pipe) in sides.items():
            for kind in kinds:
                pipe.send((kind, steps))
                seconds = pipe.recv()
                if round_number:  # the first lets allocators and autotuners settle
                    times[kind, name].append(seconds)
    for process, pipe in sides.values():
        pipe.send(None)
        process.join()
    return summary(case, names, logits, times, steps)


def summary(case: Case, names: list[str], logits: Any, times: Any, steps: int) -> dict[str, Any]:
    model, size, batch, _ = case.load()
    flops = forward_flops(model, size) * batch
    rate = MATMUL_FLOPS[case.rehearse] / statistics.median(a for a, _ in times["matmul", names[0]])
    row: dict[str, Any] = {
        "shape": case.shape,
        "dtype": case.dtype,
        "batch_size": batch,
        "steps_in_a_turn": steps,
        "matmul_tflops": rate / 1e12,
        "load": os.getloadavg()[0],
        "sides": {},
    }
    first = logits[names[0]]
    for name in names:
        side: dict[str, Any] = {}
        if not name.startswith("timm"):
            side["logits_differ_by"] = float(abs(logits[name] - first).max() / abs(first).max())
        for kind, factor in (("forward", 1), ("step", 3)):
            clock, cpu = zip(*times[kind, name], strict=True)
            ours_clock, ours_cpu = zip(*times[kind, names[0]], strict=True)
            seconds = statistics.median(clock)
            side[kind] = {
                "seconds": quartiles(clock),
                "cpu_seconds": quartiles(cpu),
                "images_per_second": batch / seconds,
                "tflops": factor * flops / seconds / 1e12,
                "share_of_matmul": factor * flops / seconds / rate,
                "ratio": quartiles(b / a for a, b in zip(ours_clock, clock, strict=True)),
                "cpu_ratio": quartiles(b / a for a, b in zip(ours_cpu, cpu, strict=True)),
            }
        row["sides"][name] = side
    return row


def quartiles(values: Iterable[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def show(row: dict[str, Any]) -> None:
    first = next(iter(row["sides"]))
    print(
        f"\n{row['shape']}, {row['dtype']}, batch {row['batch_size']}; a matrix product alone: "
        f"{row['matmul_tflops']:.3f} TFLOP/s; load of the machine: {row['load']:.1f}\n"
        f"\n| | ms (quartiles) | img/s | TFLOP/s | of the product | {first} faster by | CPU ms "
        "| less CPU by |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for kind in ("forward", "step"):
        for name, side in row["sides"].items():
            found = side[kind]
            low, median, high = (1e3 * seconds for seconds in found["seconds"])
            ratio, cpu_ratio = (
                "{1:.2f} ({0:.2f} to {2:.2f})".format(*found[which])
                for which in ("ratio", "cpu_ratio")
            )
            print(
                f"| {kind}, {name} | {median:.1f} ({low:.1f} to {high:.1f}) "
                f"| {found['images_per_second']:.1f} | {found['tflops']:.3f} "
                f"| {found['share_of_matmul']:.0%} | {ratio} "
                f"| {1e3 * found['cpu_seconds'][1]:.0f} | {cpu_ratio} |",
                flush=True,
            )
    differ = [side.get("logits_differ_by", 0.0) for side in row["sides"].values()]
    print(f"\nlogits differ by {max(differ):.1e} of the largest", flush=True)


# The processes that work

MATMUL_FLOPS = {True: 2 * 64**3, False: 2 * 2048**3}


def work(pipe: Any, name: str, case: Case) -> None:
    """Set a side up, send its logits, and then seconds for every (what, how many) that is asked."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import step_sides

        side = step_sides.make(name, case)
    except ImportError as error:
        pipe.send(f"{error}: see CONTRIBUTING.md, or leave this side out")
        return
    pipe.send(side.logits)
    while (asked := pipe.recv()) is not None:
        kind, steps = asked
        run = getattr(side, kind)
        side.wait()
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            out = run()
        side.wait(out)
        seconds = time.perf_counter() - began, time.process_time() - began_cpu
        pipe.send([each / steps for each in seconds])


def made_up(model: ViT, size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images [b, h, w, 3] and labels [b]."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    return images, rng.integers(0, model.num_classes, batch, dtype=np.int32)


if __name__ == "__main__":
    main()
