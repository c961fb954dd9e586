"""How long it takes from the command to the first step, with empty caches and with full ones.

python benchmarks/start_up.py [--config configs/cifar10.py] [--batch-size 16] [--out FILE.json]

Each round starts `python train.py` twice with a cache folder of its own: first an empty one, where
nothing is compiled yet and, where the data's own folder cannot be written, nothing decoded; then
the same once more. The clock runs from the start of the process until it prints its first step:
imports, data, initial values, compiling and the step. Importing is timed by itself as well.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from input_pipeline import environment, show

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/cifar10.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="instead of the config's, for a CPU")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    imports = in_rounds(arguments.rounds, importing)
    show("imports", imports)
    starts = in_rounds(arguments.rounds, lambda: starting(arguments.config, arguments.batch_size))
    show(f"{arguments.config}, until the first step", starts)
    if arguments.out:
        results = {
            "environment": environment(),
            "config": arguments.config,
            "batch_size": arguments.batch_size,
            "rounds": arguments.rounds,
            "load": os.getloadavg()[0],
            "imports": imports,
            "starts": starts,
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def in_rounds(rounds, measure):
    """The medians of what is measured in each round."""
    found = [measure() for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def importing() -> dict[str, float]:
    """Seconds of importing jax and flax, and of this package after them."""
    code = (
        "import time; a = time.perf_counter(); import jax, flax.linen; b = time.perf_counter(); "
        "import vit_jax; print(b - a, time.perf_counter() - b)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    before, ours = map(float, done.stdout.split())
    return {"jax and flax, s": before, "vit_jax after them, s": ours}


def starting(config: str, batch_size: int | None) -> dict[str, float]:
    """Seconds until the first step, with an empty cache and with the one that was left."""
    with tempfile.TemporaryDirectory() as folder:
        first = until_first_step(config, batch_size, Path(folder), "a")
        again = until_first_step(config, batch_size, Path(folder), "b")
    found = {f"empty caches: {name}": value for name, value in first.items()}
    return found | {f"full caches: {name}": value for name, value in again.items()}


def until_first_step(
    config: str, batch_size: int | None, folder: Path, run: str
) -> dict[str, float]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "train.py", "--config", config, "--config.steps=2"),
            *("--config.data.eval_split=None", "--config.data.test_split=None"),
            *("--config.pictures=False", f"--workdir={folder / run}"),
            *([] if batch_size is None else [f"--config.batch_size={batch_size}"]),
        ],
        cwd=ROOT,
        env=environment | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    read = []
    for line in process.stdout or ():
        read.append(line)
        if re.match(r"step +1/", line):
            break
    seconds = time.perf_counter() - began
    rest, _ = process.communicate()
    if process.returncode:
        raise SystemExit("".join(read) + rest)
    summary = json.loads((folder / run / "summary.json").read_text())
    steady = summary["train_images_per_second"]
    batch = json.loads((folder / run / "config.json").read_text())["batch_size"]
    return {"s": seconds, "of it the step itself, s": batch / steady}


if __name__ == "__main__":
    main()
