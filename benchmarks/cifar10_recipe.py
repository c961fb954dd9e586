"""What each lever of the CIFAR-10 recipe is worth: pilots on held-out training images.

python benchmarks/cifar10_recipe.py [--levers NAME …] [--seeds 2] [--minutes 60]
    [--out benchmarks/results/cifar10_recipe.json] [--plot benchmarks/results/cifar10_recipe.png]
python benchmarks/cifar10_recipe.py --gpu …      # configs/cifar10.py, at 1/8 of its length
python benchmarks/cifar10_recipe.py --step       # the recipe's step beside the bare one

A pilot is a whole training of `configs/cifar10_cpu.py`, or of `configs/cifar10.py` with --gpu,
shortened (--epochs), with one thing changed. It trains on the first 45,000 training images and is
evaluated, at its end alone, on the last 5,000; no test image is looked at. What a lever changes
stands in `LEVERS`. A lever's row is the difference to the pilots without it of the same seeds.

Every finished pilot is added to the file at once and not repeated, so the command can be ended and
started again; --minutes ends it before a pilot that would take longer. Seeds are the outer loop:
what there is at any moment is a table of all levers for the first seeds. On two cores a pilot of
one epoch takes about three minutes.

--step trains no pilots: it times the config's training step beside the same without augmentation,
label smoothing and average, in turns.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from input_pipeline import environment

from vit_jax.config import Config, load_config, to_json
from vit_jax.ops.augment import AugmentConfig

ROOT = Path(__file__).parents[1]
LEVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "Muon": {
        "optim.name": "muon",
        "optim.learning_rate": 2e-3,
        "optim.momentum": 0.95,
        "optim.b2": 0.95,
        "optim.weight_decay": 0.05,
    },
    "AdamW": {
        "optim.name": "adamw",
        "optim.learning_rate": 1.5e-3,
        "optim.b2": 0.95,
        "optim.weight_decay": 0.05,
    },
    "SGD": {
        "optim.name": "sgd",
        "optim.learning_rate": 0.1,
        "optim.momentum": 0.9,
        "optim.nesterov": True,
        "optim.weight_decay": 1e-4,
    },
    "class token instead of mean": {"model.pool": "cls"},
    "sequence pooling": {"model.pool": "seq"},
    "learned positions": {"model.positions": "learned"},
    "rotary positions as well": {"model.rope": True},
    "qk-norm": {"model.qk_norm": True},
    "no qk-norm": {"model.qk_norm": False},
    "RMSNorm": {"model.norm": "rms"},
    "LayerScale 0.1": {"model.layer_scale": 0.1},
    "4 registers": {"model.num_registers": 4},
    "mimetic initial values": {"model.init_scheme": "mimetic"},
    "shifted patches": {"model.shifted_patches": True},
    "dropout 0.1": {"model.dropout": 0.1},
    "drop-path 0.1": {"model.drop_path": 0.1},
    "no drop-path": {"model.drop_path": 0.0},
    "no augmentation": {"augment": AugmentConfig()},
    "dropout 0.1, no augmentation": {"model.dropout": 0.1, "augment": AugmentConfig()},
    "alternating flip": {"augment.flip": "alternating"},
    "random flip": {"augment.flip": "random"},
    "mixup and CutMix": {"augment.mixup": 0.8, "augment.cutmix": 1.0},
    "no mixing": {"augment.mixup": 0.0, "augment.cutmix": 0.0},
    "two views of each image": {"augment.repeats": 2},
    "no label smoothing": {"label_smoothing": 0.0},
    "no weight decay": {"optim.weight_decay": 0.0},
    "half the patches in the first half": {"early.epochs": 0.5, "early.patch_dropout": 0.5},
}
"""Dotted fields of the config, by what they do in words. `early.epochs` is a share of all. What a
config has already is no lever of it, and left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="configs/cifar10.py instead")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=float, help="of a pilot; default 1, with --gpu 1/8 of all")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--rehearse", action="store_true", help="pilots of two steps")
    parser.add_argument("--step", action="store_true", help="time the step instead")
    parser.add_argument("--rounds", type=int, default=9, help="of --step")
    parser.add_argument("--out", type=Path, help="JSON file to add to")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    arguments = parser.parse_args()
    name = "cifar10" if arguments.gpu else "cifar10_cpu"
    base = load_config(ROOT / "configs" / f"{name}.py")
    if arguments.step:
        found = compare_steps(base, arguments.rounds)
        print(json.dumps(found, indent=1))
        if arguments.out:
            with arguments.out.open("x") as file:  # never over a file of pilots
                json.dump({"environment": environment(), **found}, file, indent=1)
        return
    epochs = arguments.epochs or ((base.epochs or 0) / 8 if arguments.gpu else 1.0)
    file = None if arguments.rehearse else arguments.out
    results = opened(file, base, f"configs/{name}.py", epochs)
    levers = [lever for lever in arguments.levers if changes(base, lever)]
    until, longest = time.monotonic() + 60 * arguments.minutes, 0.0
    for seed in range(arguments.seeds):
        for lever in dict.fromkeys(["none", *levers]):
            if seed < len(results["pilots"].get(lever, [])):
                continue
            if time.monotonic() + longest > until:
                break
            began = time.monotonic()
            config = pilot(base, LEVERS[lever], epochs, seed, arguments.rehearse)
            results["pilots"].setdefault(lever, []).append(train_pilot(config))
            longest = max(longest, time.monotonic() - began)
            print(f"{lever}, seed {seed}: {results['pilots'][lever][-1]}", flush=True)
            if file:
                file.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["pilots"]))
    if arguments.plot:
        draw(results, arguments.plot)


def compare_steps(base: Config, rounds: int) -> dict[str, Any]:
    """Milliseconds of the recipe's step and of the bare one: lower quartile, median, upper."""
    import jax

    from vit_jax.train.setup import set_up

    base = replaced(base, {"data.eval_split": None, "data.test_split": None})
    bare = replaced(
        base,
        {
            "augment": AugmentConfig(),
            "label_smoothing": 0.0,
            "optim.ema_decay": None,
            "optim.ema_epochs": None,
        },
    )
    jobs = {"recipe": set_up(base), "bare": set_up(bare)}
    states = {name: job.initial_state() for name, job in jobs.items()}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(-2, rounds):  # the first two compile, and warm up
        for name, job in jobs.items():
            began = time.perf_counter()
            plan = job.train_feed.plan(number + 2)
            states[name], _ = job.train_step(states[name], job.train_feed.resident, plan)
            jax.block_until_ready(states[name])
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - began))
    ratios = [bare / recipe for bare, recipe in zip(times["bare"], times["recipe"], strict=True)]
    found = {name: statistics.quantiles(taken, n=4) for name, taken in times.items()}
    return {
        "rounds": rounds,
        "milliseconds": found,
        "throughput": statistics.quantiles(ratios, n=4),
    }


def opened(file: Path | None, base: Config, name: str, epochs: float) -> dict[str, Any]:
    """What the file holds already; pilots of another base or length are none to compare with."""
    kind = {"config": name, "epochs": epochs, "base": json.loads(to_json(base))}
    if file is None or not file.exists():
        return {"environment": environment(), **kind, "pilots": {}}
    results = json.loads(file.read_text())
    if differing := [field for field in kind if results[field] != kind[field]]:
        raise SystemExit(
            f"{file} holds pilots of another {' and '.join(differing)}: name another file"
        )
    return results


def changes(base: Config, lever: str) -> bool:
    """Whether a lever is one, of this config."""
    return replaced(base, LEVERS[lever]) != base


def pilot(base: Config, lever: dict[str, Any], epochs: float, seed: int, rehearse: bool) -> Config:
    """The config of one pilot."""
    lever = lever | (
        {"early.epochs": lever["early.epochs"] * epochs} if "early.epochs" in lever else {}
    )
    share = epochs / (base.epochs or epochs)
    fixed: dict[str, Any] = {
        "seed": seed,
        "epochs": epochs,
        "optim.warmup_epochs": base.optim.warmup_epochs * share,
        "augment.mix_off_epochs": base.augment.mix_off_epochs * share,
        "early.epochs": base.early.epochs * share,
        "data.train_split": "train[:90%]",
        "data.eval_split": "train[90%:]",
        "data.test_split": None,
        "eval_every_epochs": epochs,
        "checkpoint_every_epochs": epochs,
        "pictures": False,
    }
    if base.optim.ema_epochs:
        fixed["optim.ema_epochs"] = base.optim.ema_epochs * share
    if rehearse:
        fixed |= {"epochs": None, "steps": 2, "optim.warmup_epochs": 0.0, "batch_size": 16}
        fixed |= {"data.eval_split": "train[:16]", "data.train_split": "train[:64]"}
    return replaced(base, fixed | lever)


def replaced(config: Config, fields: dict[str, Any]) -> Config:
    """The config with dotted fields replaced."""
    for dotted, value in fields.items():
        part, _, name = dotted.rpartition(".")
        if part == "model":
            config = dataclasses.replace(config, model=config.model.clone(**{name: value}))
        elif part:
            inner = dataclasses.replace(getattr(config, part), **{name: value})
            config = dataclasses.replace(config, **{part: inner})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def train_pilot(config: Config) -> dict[str, float]:
    """Held-out accuracy in percent, of the averaged weights and without averaging, and seconds."""
    from vit_jax.runs.folder import RunFolder
    from vit_jax.runs.metrics import read_rows
    from vit_jax.train.loop import train
    from vit_jax.train.setup import set_up

    with tempfile.TemporaryDirectory() as folder:
        summary = train(set_up(config), RunFolder(Path(folder))).summary
        last = [row for row in read_rows(Path(folder)) if row["split"] == "eval"][-1]
    return {
        "accuracy": round(100 * last.get("accuracy_ema", last["accuracy"]), 2),
        "accuracy_plain": round(100 * last["accuracy"], 2),
        "seconds": round(summary["seconds_total"], 1),
    }


def differences(pilots: dict[str, list[dict[str, float]]], lever: str) -> list[float]:
    """Percentage points more than without the lever, seed by seed."""
    pairs = zip(pilots[lever], pilots["none"], strict=False)
    return [with_it["accuracy"] - without["accuracy"] for with_it, without in pairs]


def spread(values: list[float]) -> str:
    return f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""


def table(pilots: dict[str, list[dict[str, float]]]) -> str:
    """A table in Markdown, from what helps most to what harms most."""
    rows = [
        "| lever | accuracy, % | difference | time | n |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    usual = statistics.mean(run["seconds"] for run in pilots["none"])
    for lever in sorted(pilots, key=lambda name: -statistics.mean(differences(pilots, name))):
        found = [run["accuracy"] for run in pilots[lever]]
        more = differences(pilots, lever)
        times = statistics.mean(run["seconds"] for run in pilots[lever]) / usual
        rows.append(
            f"| {lever} | {statistics.mean(found):.2f}{spread(found)} | "
            f"{statistics.mean(more):+.2f}{spread(more)} | {times:.2f} | {len(found)} |"
        )
    return "\n".join(rows)


def draw(results: dict[str, Any], path: Path) -> None:
    """The differences as points, one for each seed, and their means."""
    from matplotlib.figure import Figure

    pilots = results["pilots"]
    levers = [name for name in pilots if name != "none"]
    levers.sort(key=lambda name: statistics.mean(differences(pilots, name)))
    figure = Figure(figsize=(8, 0.32 * len(levers) + 1.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for row, lever in enumerate(levers):
        more = differences(pilots, lever)
        axes.plot(more, [row] * len(more), "o", color="#9ab", markersize=4)
        axes.plot(statistics.mean(more), row, "|", color="#124", markersize=14, markeredgewidth=2)
    axes.axvline(0, color="#888", linewidth=0.8)
    axes.set_yticks(range(len(levers)), levers)
    axes.set_ylim(-0.7, len(levers) - 0.3)
    axes.set_xlabel("held-out accuracy, percentage points more than without")
    axes.set_title(f"{results['config']}, epochs: {results['epochs']:g}", fontsize=10)
    figure.savefig(path)


if __name__ == "__main__":
    main()
