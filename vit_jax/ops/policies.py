"""Augmentation policies: RandAugment, TrivialAugment and 3-Augment for whole batches, inside jit.

What changes colours is a row of numbers (`recolour.Recolouring`), what moves pixels a matrix. All
drawn recolourings come first, in their order, then the product of the matrices in one warp. So an
image differs from one that went through 8-bit pictures, operation by operation, in three ways:
1. Pixels are interpolated once and rounded never; what one operation pushes out of the picture
   another can bring back.
2. A recolouring drawn after a geometric operation neither sees nor changes the fill.
3. Equalize twice in a row is done once (`recolour` says why), for 1 of 900 images of RandAugment.

RandAugment's operations, as timm's "increasing" set (rand-mM-mstdS-inc1), with m the magnitude
0..10 over 10, ± a random sign, and int cutting towards 0; pixels are always interpolated
bilinearly, where timm draws bilinear or bicubic:

    AutoContrast, Equalize, Invert      no magnitude
    Rotate                              ± 30 m degrees
    PosterizeIncreasing                 4 - int(4 m) bits are kept, at m = 1 none
    SolarizeIncreasing                  levels from 256 - int(256 m) on
    SolarizeAdd                         int(110 m) levels more for those below 128
    Color-, Contrast-, Brightness-,
      SharpnessIncreasing               factor 1 ± 0.9 m
    ShearX, ShearY                      factor ± 0.3 m
    TranslateXRel, TranslateYRel        ± 0.45 m of width, height

TrivialAugment's, the wide space of its paper (table 1), with m = 0, 1/30 .. 1:

    Identity, AutoContrast, Equalize    no strength
    Rotate                              ± 135 m degrees
    Posterize                           8 - round(6 m) bits are kept
    Solarize                            levels from 255 (1 - m) on
    Color, Contrast, Brightness,
      Sharpness                         factor 1 ± 0.99 m
    ShearX, ShearY                      factor ± 0.99 m
    TranslateX, TranslateY              ± 32 m pixels
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vit_jax.ops import colour, warp
from vit_jax.ops.branch import if_any
from vit_jax.ops.recolour import Recolouring, recolour

OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)
"""RandAugment's, by number."""
TRIVIAL_OPERATIONS = (
    "Identity",
    *(name for name in OPERATIONS if name not in ("Invert", "SolarizeAdd")),
)
"""TrivialAugment's, by number."""
_STRENGTHS = 31


def rand_augment(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    fill: tuple[float, ...],
    num_ops: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    probability: float = 0.5,
) -> Float[Array, "b h w c"]:
    """RandAugment (arXiv 1909.13719): `num_ops` operations, drawn with replacement.

    Each is applied with `probability`, at a magnitude from N(magnitude, magnitude_std) cut to
    0..10. With probability 1 and a deviation of 0, it is the paper's.
    fill: what comes in from outside, one value of 0..1 per channel; usually the mean of the data.
    """
    operations, magnitudes = draw_rand_augment(keys, num_ops, magnitude, magnitude_std, probability)
    turns = list(zip(operations.T, magnitudes.T, strict=True))
    images = recolour(images, [rand_recolouring(*turn) for turn in turns])
    matrices = [rand_matrices(*turn, *images.shape[1:3]) for turn in turns]
    return _move(images, functools.reduce(warp.compose, matrices), fill)


def draw_rand_augment(
    keys: Key[Array, "b"],
    num_ops: int,
    magnitude: float,
    magnitude_std: float,
    probability: float,
) -> tuple[Int[Array, "b ops"], Float[Array, "b ops"]]:
    """Numbers of the operations, -1 for one that is not applied, and signed magnitudes, -1..1."""

    def draw(key):
        even_key, magnitude_key = jax.random.split(key)
        operation, applied, sign = jax.random.uniform(even_key, (3, num_ops))
        operations = jnp.floor(operation * len(OPERATIONS)).astype(int)
        magnitudes = magnitude + magnitude_std * jax.random.normal(magnitude_key, (num_ops,))
        signed = jnp.where(sign < 0.5, -1, 1) * jnp.clip(magnitudes / 10, 0, 1)
        return jnp.where(applied < probability, operations, -1), signed

    return jax.vmap(draw)(keys)


def rand_recolouring(operation: Int[Array, "b"], magnitude: Float[Array, "b"]) -> Recolouring:
    """RandAugment's operation on colours, neutral where a geometric one was drawn."""

    def cut(levels):
        # A product just below a whole number is that number.
        return jnp.floor(levels * jnp.abs(magnitude) + 1e-4)

    return _recolouring(
        *(operation, OPERATIONS),
        factor=1 + 0.9 * magnitude,
        bits=4 - cut(4),
        threshold=(256 - cut(256)) / colour.LEVELS,
        addition=cut(110) / colour.LEVELS,
    )


def rand_matrices(
    operation: Int[Array, "b"], magnitude: Float[Array, "b"], height: int, width: int
) -> Float[Array, "b 2 3"]:
    """RandAugment's geometric operation, the identity where one on colours was drawn."""
    sizes = {
        "Rotate": 30.0,
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 0.45 * width,
        "TranslateY": 0.45 * height,
    }
    return _matrices(operation, OPERATIONS, magnitude, sizes, height, width)


def trivial_augment(
    keys: Key[Array, "b"], images: Float[Array, "b h w c"], fill: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """TrivialAugment (arXiv 2103.10158): one operation, at a strength of any size.

    fill: what comes in from outside, one value of 0..1 per channel.
    """
    operation, magnitude = draw_trivial_augment(keys)
    images = recolour(images, [trivial_recolouring(operation, magnitude)])
    matrices = trivial_matrices(operation, magnitude, *images.shape[1:3])
    return _move(images, matrices, fill)


def draw_trivial_augment(keys: Key[Array, "b"]) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
    """Numbers of the operations and signed magnitudes, -1..1 in steps of 1/30."""

    def draw(key):
        operation, sign, strength = jax.random.uniform(key, (3,))
        operation = jnp.floor(operation * len(TRIVIAL_OPERATIONS)).astype(int)
        strength = jnp.floor(strength * _STRENGTHS) / (_STRENGTHS - 1)
        return operation, jnp.where(sign < 0.5, -1, 1) * strength

    return jax.vmap(draw)(keys)


def trivial_recolouring(operation: Int[Array, "b"], magnitude: Float[Array, "b"]) -> Recolouring:
    """TrivialAugment's operation on colours, neutral where another was drawn."""
    strength = jnp.abs(magnitude)
    return _recolouring(
        *(operation, TRIVIAL_OPERATIONS),
        factor=1 + 0.99 * magnitude,
        bits=8 - jnp.round(6 * strength),
        threshold=1 - strength,
        addition=jnp.zeros_like(strength),
    )


def trivial_matrices(
    operation: Int[Array, "b"], magnitude: Float[Array, "b"], height: int, width: int
) -> Float[Array, "b 2 3"]:
    """TrivialAugment's geometric operation, the identity where another was drawn."""
    sizes = {
        "Rotate": 135.0,
        "ShearX": 0.99,
        "ShearY": 0.99,
        "TranslateX": 32.0,
        "TranslateY": 32.0,
    }
    return _matrices(operation, TRIVIAL_OPERATIONS, magnitude, sizes, height, width)


def three_augment(
    keys: Key[Array, "b"], images: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """3-Augment of DeiT III (arXiv 2204.07118, section 3.3): grey, solarized or blurred.

    One of the three for each image: `grayscale`, `solarize` from level 128 on, `gaussian_blur` of
    0.1 to 2 pixels. Its colour jitter, which follows, is `colour.colour_jitter`.
    """

    def draw(key):
        operation, sigma = jax.random.uniform(key, (2,))
        return jnp.floor(operation * 3), 0.1 + 1.9 * sigma

    operation, sigma = jax.vmap(draw)(keys)
    operation = colour.per_image(operation)
    half = jnp.full(len(keys), 128 / colour.LEVELS)
    solarized, blurred = colour.solarize(images, half), colour.gaussian_blur(images, sigma)
    others = jnp.where(operation == 1, solarized, blurred)
    return jnp.where(operation == 0, colour.grayscale(images), others)


def _recolouring(
    operation: Int[Array, "b"],
    names: tuple[str, ...],
    factor: Float[Array, "b"],
    bits: Float[Array, "b"],
    threshold: Float[Array, "b"],
    addition: Float[Array, "b"],
) -> Recolouring:
    """The drawn operation's number where an operation was drawn, the neutral one elsewhere."""
    numbers = {name: number for number, name in enumerate(names)}

    def drawn(name, value=True, neutral=False):
        return jnp.where(operation == numbers.get(name, len(names)), value, neutral)

    return Recolouring(
        autocontrast=drawn("AutoContrast"),
        equalize=drawn("Equalize"),
        invert=drawn("Invert"),
        bits=drawn("Posterize", bits, 8.0),
        threshold=drawn("Solarize", threshold, 2.0),
        addition=drawn("SolarizeAdd", addition, 0.0),
        brightness=drawn("Brightness", factor, 1.0),
        contrast=drawn("Contrast", factor, 1.0),
        colour=drawn("Color", factor, 1.0),
        sharpness=drawn("Sharpness", factor, 1.0),
    )


def _matrices(
    operation: Int[Array, "b"],
    names: tuple[str, ...],
    magnitude: Float[Array, "b"],
    sizes: dict[str, float],
    height: int,
    width: int,
) -> Float[Array, "b 2 3"]:
    """The drawn operation's matrix, at `magnitude` times its size."""
    amount = {
        name: jnp.where(operation == names.index(name), size * magnitude, 0)
        for name, size in sizes.items()
    }
    # At most one of them is not the identity.
    matrices = (
        warp.rotate(amount["Rotate"], height, width),
        warp.shear_x(amount["ShearX"]),
        warp.shear_y(amount["ShearY"]),
        warp.translate_x(amount["TranslateX"]),
        warp.translate_y(amount["TranslateY"]),
    )
    identity = jnp.eye(2, 3)
    return identity + sum(matrix - identity for matrix in matrices)


def _move(
    images: Float[Array, "b h w c"], matrices: Float[Array, "b 2 3"], fill: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    moved = (matrices != jnp.eye(2, 3)).any(axis=(1, 2))
    return if_any(moved, lambda images: warp.affine_warp(images, matrices, fill), images)
