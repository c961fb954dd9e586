"""Time and memory of loading ViT-B/16, 346 MB of random weights, in each layout.

python benchmarks/load_weights.py

Each layout is loaded in a process of its own; memory is the growth of its resident set while
loading, sampled every 2 ms, as a multiple of the parameters' size.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FILES = {"huggingface": "hf", "timm": "timm", "torchvision": "tv.safetensors", "google": "g.npz"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", help=argparse.SUPPRESS)  # one measurement, in its own process
    arguments = parser.parse_args()
    if arguments.load:
        print(measure(arguments.load))
        return
    print("| layout | seconds | peak memory | memory after |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        for layout, name in FILES.items():
            command = [sys.executable, __file__, "--load", str(Path(folder) / name)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
            print(f"| {layout} | {out.strip()} |", flush=True)


def write_all(folder: Path) -> None:
    """Random weights of one model in all four layouts."""
    import jax
    import numpy as np

    from vit_jax import save_pretrained, vit
    from vit_jax.weights.layout import Preprocessing

    model = vit("B/16").clone(image_size=224, channels=3)
    images, rng = np.zeros((1, 224, 224, 3), np.float32), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )
    for layout, name in FILES.items():
        spec = Preprocessing((0.5,) * 3, (0.5,) * 3)
        save_pretrained(folder / name, layout, model, variables, spec, say=None)


def measure(path: str) -> str:
    """Seconds and multiples of the parameters' size, as cells of a table."""
    import jax

    from vit_jax import load_pretrained

    jax.block_until_ready(jax.numpy.zeros(1))  # the start of jax itself is not counted
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    variables = jax.block_until_ready(load_pretrained(path)[1])
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    after = (resident_bytes() - before) / size
    return f"{seconds:.2f} | {(peak - before) / size:.2f}x | {after:.2f}x"


def resident_bytes() -> int:
    """The resident set of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
