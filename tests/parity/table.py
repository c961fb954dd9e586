"""Print how far our numbers are from PyTorch's, as a table in Markdown.

python tests/parity/table.py

Runs on the CPU unless JAX_PLATFORMS says otherwise.
"""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path


def main() -> None:
    # Read by jax when it is imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import numpy as np
    from parity import measure
    from parity.references import REFERENCES

    print(f"{hardware()}, {versions()}, {datetime.date.today()}.\n")
    print_row("reference", measure.BOUNDS)
    print_row("---", ["---:"] * len(measure.BOUNDS))
    for name in REFERENCES:
        comparison = measure.Comparison(name)
        found = comparison.forward() | {"gradients": comparison.gradients()}
        found |= {optimiser: comparison.steps(optimiser)[0] for optimiser in measure.OPTIMISERS}
        print_row(name, [f"{np.max(list(found[q].values())):.1e}" for q in measure.BOUNDS])
    print_row("*bound*", [f"{bound:.0e}" for bound in measure.BOUNDS.values()])


def print_row(name, cells) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def versions() -> str:
    packages = ("jax", "flax", "optax", "torch", "transformers")
    found = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])


def hardware() -> str:
    """The processor's name, as Linux knows it, and how many cores this process may use."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
