"""The CIFAR recipe image by image, in Pillow and NumPy: what a DataLoader's workers would do."""

import functools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
KEPT: tuple[np.ndarray, np.ndarray]


def keep(images: np.ndarray, labels: np.ndarray) -> None:
    """Runs in each worker first."""
    global KEPT
    KEPT = images, labels


def recipe_per_image(pool: Any, number: int) -> float:
    """Img/s of workers that each make batches of 128, which the main process mixes."""
    batches, size = 24, 128
    rng = np.random.default_rng(0)
    indices = [rng.integers(0, number, size) for _ in range(batches)]
    began = time.perf_counter()
    for images, labels in pool.imap(load_batch, indices):
        mixed = mix_batch(images, labels, rng)
    return batches * len(mixed[0]) / (time.perf_counter() - began)


def load_batch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, labels = KEPT
    rng = random.Random(int(indices[0]))  # noqa: S311
    return np.stack([transform(images[i], rng) for i in indices]), labels[indices]


def transform(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """Crop, flip, RandAugment in Pillow, normalise, erase; one image."""
    from PIL import Image, ImageOps

    image = ImageOps.expand(Image.fromarray(pixels), 4)
    left, top = rng.randrange(9), rng.randrange(9)
    image = image.crop((left, top, left + 32, top + 32))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for _ in range(2):
        operation = rng.choice(OPERATIONS)
        if rng.random() < 0.5:
            level = min(max(rng.gauss(9, 0.5), 0), 10) / 10 * rng.choice((-1, 1))
            image = operation(image, level)
    array = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    if rng.random() < 0.25:
        area, ratio = 1024 * rng.uniform(0.02, 1 / 3), np.exp(rng.uniform(-1.2, 1.2))
        height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if height < 32 and width < 32:
            y, x = rng.randrange(33 - height), rng.randrange(33 - width)
            array[y : y + height, x : x + width] = 0
    return array.astype(np.float32)


def enhance(kind: str, image: Any, level: float) -> Any:
    from PIL import ImageEnhance

    return getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * level)


def warp(matrix: Callable[[float], tuple[float, ...]], image: Any, level: float) -> Any:
    from PIL import Image

    data, resample = matrix(level), Image.Resampling.BILINEAR
    return image.transform(
        image.size, Image.Transform.AFFINE, data, resample, fillcolor=(125, 123, 114)
    )


def adjust(kind: str, argument: Callable[[float], Any] | None, image: Any, level: float) -> Any:
    from PIL import ImageOps

    arguments = () if argument is None else (argument(level),)
    return getattr(ImageOps, kind)(image, *arguments)


def rotate(image: Any, level: float) -> Any:
    from PIL import Image

    return image.rotate(30 * level, Image.Resampling.BILINEAR, fillcolor=(125, 123, 114))


def solarize_add(image: Any, level: float) -> Any:
    added = int(110 * abs(level))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


OPERATIONS = [
    *(functools.partial(enhance, kind) for kind in ("Color", "Contrast", "Brightness")),
    functools.partial(enhance, "Sharpness"),
    functools.partial(adjust, "autocontrast", None),
    functools.partial(adjust, "equalize", None),
    functools.partial(adjust, "invert", None),
    functools.partial(adjust, "posterize", lambda level: max(1, 4 - int(4 * abs(level)))),
    functools.partial(adjust, "solarize", lambda level: 256 - int(256 * abs(level))),
    solarize_add,
    rotate,
    functools.partial(warp, lambda level: (1, 0.3 * level, 0, 0, 1, 0)),
    functools.partial(warp, lambda level: (1, 0, 0, 0.3 * level, 1, 0)),
    functools.partial(warp, lambda level: (1, 0, 14.4 * level, 0, 1, 0)),
    functools.partial(warp, lambda level: (1, 0, 0, 0, 1, 14.4 * level)),
]


def mix_batch(
    images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """mixup or CutMix of a batch with its reverse."""
    targets = np.eye(10, dtype=np.float32)[labels]
    if rng.random() < 0.5:
        weight = np.float32(rng.beta(0.8, 0.8))
        images = weight * images + (1 - weight) * images[::-1]
    else:
        side = round(32 * (1 - rng.beta(1, 1)) ** 0.5)
        y, x = rng.integers(0, 33 - side, 2)
        images = images.copy()
        images[:, y : y + side, x : x + side] = images[::-1, y : y + side, x : x + side]
        weight = 1 - side * side / 1024
    return images, weight * targets + (1 - weight) * targets[::-1]
