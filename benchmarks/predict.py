"""Images per second of `vit-jax predict`, beside what it cannot do without.

python benchmarks/predict.py [--images 1000] [--rounds 5] [--out benchmarks/results/predict.json]

JPEGs of 500x375, a ViT-Ti/16 at 224 with random weights. One side is `predict`, from file names to
classes and probabilities; the other is decoding alone, by Pillow in as many threads, and after it
the jitted forward alone over as many decoded arrays. Both have compiled before. In turns in one
run; the medians of the rounds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from input_pipeline import CORES, environment, in_turns, show, write_jpegs

from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.inference.images import find_images
from vit_jax.inference.predict import predict
from vit_jax.inference.saved import SavedModel
from vit_jax.models import vit

SIZE, BATCH = 224, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), arguments.images, size=(500, 375))
        found = compare(folder, arguments.images, arguments.rounds)
    show(f"{arguments.images:,} JPEGs, ViT-Ti/16 at {SIZE}", found)
    if arguments.out:
        results = {
            "environment": environment(),
            "images": arguments.images,
            "rounds": arguments.rounds,
            "batch_size": BATCH,
            "threads": CORES,
            "predict": found,
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def random_model() -> SavedModel:
    model = vit("Ti/16").clone(num_classes=1000, image_size=(SIZE, SIZE), channels=3)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3)))["params"]
    data = DataConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), image_size=SIZE)
    return SavedModel("random", "random", Config(model=model, data=data), params, None)


def compare(folder: str, number: int, rounds: int) -> dict[str, float]:
    saved = random_model()
    files = sorted(map(str, Path(folder).rglob("*.jpg")))
    forward = bare_forward(saved)
    decoded = decode_all(files[: min(number, 4 * BATCH)])

    def whole() -> float:
        return seconds(lambda: list(predict(saved, find_images([folder]), batch_size=BATCH)))

    def decoding() -> float:
        return seconds(lambda: decode_all(files))

    def computing() -> float:
        return seconds(lambda: forward(decoded, number))

    for side in (whole, decoding, computing):
        side()
    names = ("predict, s", "bare decoding, s", "bare forward, s")
    found = in_turns(dict(zip(names, (whole, decoding, computing), strict=True)), rounds)
    ours, *bare = (found[name] for name in names)
    return found | {
        "predict, img/s": number / ours,
        "ratio to decoding + forward": ours / sum(bare),
    }


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decode_all(files: list[str]) -> np.ndarray:
    """uint8 [n, 224, 224, 3], the centres, by Pillow alone."""
    images = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    with ThreadPoolExecutor(CORES) as pool:
        for place, image in enumerate(pool.map(decode, files)):
            images[place] = image
    return images


def decode(file: str) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        return np.asarray(resized)


def bare_forward(saved: SavedModel) -> Callable[[np.ndarray, int], None]:
    @jax.jit
    def logits(params, images):
        return saved.model.apply({"params": params}, (images / np.float32(255) - 0.5) / 0.5)

    def run(images: np.ndarray, number: int) -> None:
        """Over so many images, the ones given again and again; the last batch is full as well."""
        results = []
        for first in range(0, number, BATCH):
            rows = np.arange(first, first + BATCH) % len(images)
            results.append(logits(saved.params, images[rows]))
        jax.block_until_ready(results)

    return run


if __name__ == "__main__":
    main()
