"""Images per second of the two ways from pixels on disk to a batch that a model can train on.

python benchmarks/input_pipeline.py [--out benchmarks/results/input_pipeline.json]
    [--torchvision PYTHON]

1. The full CIFAR recipe (padded crop, alternating flip, RandAugment, erasing, mixup or CutMix) on
   whole batches inside jit, beside the same recipe image by image in as many worker processes as
   there are cores: by torchvision in PyTorch's DataLoader, where PYTHON is an interpreter that has
   both, and by a loop of ours over Pillow and NumPy that does no more than it must.
2. The streaming feed on JPEGs, beside processes that do nothing but decode and cut out with Pillow.
3. The memory of the streaming feed and its workers over 20,000 JPEGs.

All in one run, the two sides of a comparison in turns; rates are the medians of the rounds.
"""

import argparse
import datetime
import functools
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from per_image_recipe import keep, recipe_per_image
from recipe_in_jit import recipe_in_jit

CORES = min(16, os.cpu_count() or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--torchvision", help="an interpreter with torch and torchvision")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jpegs", type=int, default=20_000, help="of the memory measurement")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"environment": environment()}
    results["recipe"] = compare_recipes(arguments.rounds, arguments.torchvision)
    show("full CIFAR recipe, 32x32x3", results["recipe"])
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), 400, size=(500, 375))
        results["streaming"] = compare_streaming(Path(folder), arguments.rounds)
    show("JPEGs of 500x375 to 224x224", results["streaming"])
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), arguments.jpegs, size=(64, 48))
        results["memory"] = memory_over(Path(folder), arguments.jpegs)
    show("memory while streaming", results["memory"])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def environment() -> dict[str, Any]:
    import jax

    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    processor = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),  # noqa: S603
        "device": jax.devices()[0].device_kind,
        "processor": processor[0] if processor else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "pillow", "grain", "numpy")},
    }


def show(title: str, rows: dict[str, Any]) -> None:
    print(f"\n| {title} | |\n| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value:,.2f} |" if value < 100 else f"| {name} | {value:,.0f} |")


def in_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median over the rounds of what each side returns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return {name: statistics.median(values) for name, values in found.items()}


# 1. The recipe


def compare_recipes(rounds: int, torchvision: str | None) -> dict[str, float]:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (5000, 8, 8, 3), dtype=np.uint8)
    images = low.repeat(4, axis=1).repeat(4, axis=2)  # in place of CIFAR: as large, with edges
    labels = rng.integers(0, 10, len(images)).astype(np.int32)
    in_jit = recipe_in_jit(images, labels)
    with multiprocessing.get_context("spawn").Pool(CORES, keep, (images, labels)) as pool:
        sides = {
            "in jit": in_jit,
            "Pillow and NumPy": functools.partial(recipe_per_image, pool, len(images)),
        }
        if torchvision:
            sides["torchvision"] = functools.partial(recipe_by_torchvision, torchvision)
        for side in 3 * list(sides.values()):
            side()  # compile, start the workers, and let the allocators settle
        found = in_turns({f"{name}, img/s": side for name, side in sides.items()}, rounds)
    ours, *others = found
    return found | {f"ratio to {name[:-7]}": found[ours] / found[name] for name in others}


def recipe_by_torchvision(interpreter: str) -> float:
    script = str(Path(__file__).with_name("torchvision_recipe.py"))
    output = subprocess.run(  # noqa: S603
        [interpreter, script, str(CORES)], check=True, capture_output=True, text=True
    ).stdout
    return float(output.split()[0])


# 2. and 3. Streaming


def write_jpegs(folder: Path, number: int, size: tuple[int, int]) -> None:
    """Smooth pictures with some noise, of about the size on disk that photographs have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    width, height = size
    noise = rng.integers(-12, 13, (64, height, width, 3))
    for place in range(number):
        low = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(low.resize(size, Image.Resampling.BICUBIC), int) + noise[place % 64]
        path = folder / "train" / f"{place % 2}" / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


def streaming_feed(folder: Path, batch_size: int, image_size: int) -> Any:
    from vit_jax.data.catalog import open_source
    from vit_jax.data.order import Order
    from vit_jax.data.source import DataConfig
    from vit_jax.data.streaming import RandomCrop, StreamingFeed

    config = DataConfig("folder", str(folder), train_split="train", image_size=image_size)
    source = open_source(config, "train")
    crop = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), seed=0)
    order = Order(len(source), batch_size, seed=0)
    return StreamingFeed(source, order, workers=CORES, crop=crop)


def compare_streaming(folder: Path, rounds: int) -> dict[str, float]:
    feed = streaming_feed(folder, 64, 224)
    paths = sorted(map(str, folder.rglob("*.jpg")))
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        bare, alone = (
            functools.partial(bare_rate, pool, paths, work)
            for work in (decode_and_cut, decode_only)
        )
        ours = functools.partial(streaming_rate, feed)
        ours(), bare(), alone()
        found = in_turns(
            {
                "streaming feed, img/s": ours,
                "bare Pillow, decode and cut out, img/s": bare,
                "bare Pillow, decode alone, img/s": alone,
            },
            rounds,
        )
    feed.close()
    names = list(found)
    found["ratio to decoding and cutting out"] = found[names[0]] / found[names[1]]
    found["ratio to decoding alone"] = found[names[0]] / found[names[2]]
    return found


def streaming_rate(feed: Any) -> float:
    """Img/s of a feed whose buffers are empty at the start, as they are at the end."""
    first, steps = (feed._next or 0), 16
    for step in range(first, first + 6):  # what was read ahead while the others ran
        feed.plan(step)
    began = time.perf_counter()
    for step in range(first + 6, first + 6 + steps):
        feed.plan(step)
    return steps * feed.batch_size / (time.perf_counter() - began)


def bare_rate(pool: Any, paths: list[str], work: Callable[[str], int]) -> float:
    began = time.perf_counter()
    pool.map(work, paths * 3, chunksize=25)
    return 3 * len(paths) / (time.perf_counter() - began)


def decode_and_cut(path: str) -> int:
    from PIL import Image

    with Image.open(path) as image:
        image = image.convert("RGB")
        share = random.uniform(0.08, 1) ** 0.5  # noqa: S311
        width, height = image.width * share, image.height * share
        left = random.uniform(0, image.width - width)  # noqa: S311
        top = random.uniform(0, image.height - height)  # noqa: S311
        box = (left, top, left + width, top + height)
        return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box)).size


def decode_only(path: str) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).size


def memory_over(folder: Path, number: int) -> dict[str, float]:
    """Peak of the resident memory of this process and its workers, early and late."""
    batch_size = 10
    feed = streaming_feed(folder, batch_size, 32)
    steps = number // batch_size
    half = min(1000, steps // 2)
    peaks = []
    for first in (0, steps - half):
        sizes = []
        for step in range(first, first + half):
            feed.plan(step)
            if step % 10 == 0:
                sizes.append(resident_memory())
        peaks.append(max(sizes) / 1e6)
    feed.close()
    return {
        "batches in each half": half,
        "peak of the first, MB": peaks[0],
        "peak of the last, MB": peaks[1],
        "ratio": peaks[1] / peaks[0],
    }


def resident_memory() -> int:
    """Bytes of this process and its children; pages that they share count in each."""
    total, parents = 0, {os.getpid()}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if int(path.name) in parents or parent in parents:
                pages = int((path / "statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue  # it has ended meanwhile
    return total


if __name__ == "__main__":
    main()
