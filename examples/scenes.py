"""Drawn scenes to try things on: one coloured shape before a background of waves and strokes."""

import colorsys

import numpy as np

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")


def scenes(number: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [number, size, size, 3], and of each the shape and its colour, int32."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(len(SHAPES), size=number, dtype=np.int32)
    colours = rng.integers(len(COLOURS), size=number, dtype=np.int32)
    images = [_scene(rng, s, c / 6, size) for s, c in zip(shapes, colours, strict=True)]
    return np.stack(images), shapes, colours


def _scene(rng: np.random.Generator, shape: int, hue: float, size: int) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    waves, dim = np.full_like(x, 0.5), rng.random()
    for frequency in (5, 9, 16, 30):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        waves += np.cos(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase + waves) / 4
    image = np.tile(_colour(dim, rng.uniform(0.2, 0.6)), (size, size, 1))
    image = _blend(image, _colour(dim + rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.6)), waves)
    for _ in range(4):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
        away = np.abs(np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) - offset)
        image = _blend(image, _colour(rng.random(), 0.7), (0.012 - away) * size)

    radius = rng.uniform(0.16, 0.25)
    left, top = rng.uniform(radius, 1 - radius, 2)
    inside = _inside(SHAPES[shape], (x - left) / radius, (y - top) / radius, rng.normal(0, 0.2))
    image = _blend(image, _colour(hue + rng.uniform(-0.03, 0.03), 1.0), inside * radius * size)
    return (255 * np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)).astype(np.uint8)


def _inside(shape: str, x: np.ndarray, y: np.ndarray, turn: float) -> np.ndarray:
    """How far inside a shape of about radius 1 a point is; negative outside."""
    far, angle = np.hypot(x, y), np.arctan2(y, x) + turn
    if shape == "circle":
        return 0.9 - far
    sides, apothem = {"square": (4, 0.78), "triangle": (3, 0.6), "star": (5, 0.4)}[shape]
    # From the middle of a side, which is below; of a star from a tip, which is above.
    below = -np.pi / 2 if shape == "star" else np.pi / 2
    middle = (angle - below + np.pi / sides) % (2 * np.pi / sides) - np.pi / sides
    return apothem - far * np.cos(1.176 - np.abs(middle) if shape == "star" else middle)


def _colour(hue: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, 0.65, value))


def _blend(image: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """The colour where the amount is 1 or more; amounts in pixels make soft edges."""
    amount = np.clip(amount, 0, 1)[..., None]
    return (1 - amount) * image + amount * colour
