"""Policies: each operation against Pillow's, by the published tables."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.ops import policies, warp
from vit_jax.ops.colour import equalize
from vit_jax.ops.recolour import recolour

LEVEL = 1 / 255
FILL = (124, 116, 104)
GREY = tuple(v / 255 for v in FILL)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
ON_COLOURS = tuple(name for name in policies.OPERATIONS if name not in GEOMETRIC)
ENHANCE = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}


def pillow(picture, name, value):
    """An operation of either table, with what its magnitude stands for."""
    bands = len(picture.getbands())
    if name in ENHANCE:
        return ENHANCE[name](picture).enhance(value)
    if name == "SolarizeAdd":
        return picture.point([min(255, v + value) if v < 128 else v for v in range(256)] * bands)
    if name in GEOMETRIC:
        fill, bilinear = FILL if bands == 3 else FILL[0], Image.Resampling.BILINEAR
        if name == "Rotate":
            return picture.rotate(value, bilinear, fillcolor=fill)
        place = {"ShearX": 1, "TranslateX": 2, "ShearY": 3, "TranslateY": 5}[name]
        data = [1, 0, 0, 0, 1, 0]
        data[place] = value
        method = Image.Transform.AFFINE
        return picture.transform(picture.size, method, data, bilinear, fillcolor=fill)
    return {
        "Identity": lambda: picture,
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Invert": lambda: ImageOps.invert(picture),
        # No bits, which Pillow refuses of late, are black.
        "Posterize": lambda: (
            ImageOps.posterize(picture, value) if value else picture.point([0] * 256 * bands)
        ),
        "Solarize": lambda: ImageOps.solarize(picture, value),
    }[name]()


def rand_value(name, m, height, width):
    """What RandAugment's magnitude m, -1..1, stands for."""
    table = {
        "Rotate": 30 * m,
        "Posterize": 4 - int(4 * abs(m)),
        "Solarize": 256 - int(256 * abs(m)),
        "SolarizeAdd": int(110 * abs(m)),
        "ShearX": 0.3 * m,
        "ShearY": 0.3 * m,
        "TranslateX": 0.45 * m * width,
        "TranslateY": 0.45 * m * height,
    }
    return 1 + 0.9 * m if name in ENHANCE else table.get(name)


def trivial_value(name, m, height, width):
    """What TrivialAugment's m stands for."""
    table = {
        "Rotate": 135 * m,
        "Posterize": 8 - round(6 * abs(m)),
        "Solarize": 255 * (1 - abs(m)),
        "ShearX": 0.99 * m,
        "ShearY": 0.99 * m,
        "TranslateX": 32 * m,
        "TranslateY": 32 * m,
    }
    return 1 + 0.99 * m if name in ENHANCE else table.get(name)


@jax.jit
def rand_one(images, operation, magnitude):
    images = recolour(images, [policies.rand_recolouring(operation, magnitude)])
    matrices = policies.rand_matrices(operation, magnitude, *images.shape[1:3])
    return warp.affine_warp(images, matrices, GREY[: images.shape[3]])


@jax.jit
def trivial_one(images, operation, magnitude):
    images = recolour(images, [policies.trivial_recolouring(operation, magnitude)])
    matrices = policies.trivial_matrices(operation, magnitude, *images.shape[1:3])
    return warp.affine_warp(images, matrices, GREY[: images.shape[3]])


RAND = (rand_one, rand_value, policies.OPERATIONS, (0.0, 0.31, -0.55, 0.9, -1.0, 1.0))
TRIVIAL = (trivial_one, trivial_value, policies.TRIVIAL_OPERATIONS, (0.0, 7 / 30, -0.5, 0.9, -1.0))


def to_float(images):
    return jnp.float32(images) / 255


def make_keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(32, 32), (48, 64)], ids=str)
@pytest.mark.parametrize("policy", [RAND, TRIVIAL], ids=["rand", "trivial"])
def test_each_operation_is_pillows_by_its_table(policy, size, channels, photographs, by_pillow):
    ours, value, names, magnitudes = policy
    cases = list(itertools.product(range(len(names)), magnitudes))
    operation, magnitude = np.array(cases * 2).T
    images = photographs(*size, channels, len(cases))
    found = np.asarray(ours(to_float(images), operation.astype(np.int32), jnp.float32(magnitude)))

    def apply(picture, number, m):
        name = names[int(number)]
        return pillow(picture, name, value(name, m, *size))

    expected = by_pillow(apply, images, operation, magnitude)
    error = abs(found - expected).mean(axis=(1, 2, 3))
    worst = error.argmax()
    assert error.max() <= LEVEL, (names[int(operation[worst])], magnitude[worst])


@pytest.mark.parametrize("size", [(32, 32), (48, 64)], ids=str)
def test_colours_are_changed_in_their_order(size, photographs, by_pillow):
    pairs = [pair for pair in itertools.product(ON_COLOURS, repeat=2) if pair != ("Equalize",) * 2]
    images = photographs(*size, 3, len(pairs))
    numbers = jnp.array([[policies.OPERATIONS.index(name) for name in pair] for pair in pairs] * 2)
    magnitude = jnp.full(len(images), 0.5)

    @jax.jit
    def both(images):
        turns = [policies.rand_recolouring(number, magnitude) for number in numbers.T]
        return recolour(images, turns)

    def apply(picture, pair):
        for name in pair:
            picture = pillow(picture, name, rand_value(name, 0.5, *size))
        return picture

    error = abs(np.asarray(both(to_float(images))) - by_pillow(apply, images, pairs * 2))
    error = error.mean(axis=(1, 2, 3))
    # Cutting to a level in between is magnified by what stretches or cuts into steps.
    assert np.median(error) <= LEVEL
    assert error.max() <= 3 * LEVEL, (pairs * 2)[error.argmax()]


def test_three_turns_are_one_after_the_other(photographs):
    # An odd number, and equalize in every place.
    orders = list(itertools.permutations(("Equalize", "Solarize", "Contrast")))
    images = to_float(photographs(32, 32, 3, len(orders)))
    numbers = np.array([[policies.OPERATIONS.index(name) for name in order] for order in orders])
    numbers, magnitude = jnp.tile(jnp.array(numbers), (2, 1)), jnp.full(len(images), 0.4)
    turns = [policies.rand_recolouring(number, magnitude) for number in numbers.T]
    one = jax.jit(lambda images, turn: recolour(images, [turn]))
    expected = functools.reduce(one, turns, images)
    np.testing.assert_allclose(jax.jit(recolour)(images, turns), expected, rtol=0, atol=1e-5)
    assert len({image.tobytes() for image in np.asarray(expected)}) == len(images)


def test_equalize_twice_is_once(photographs):
    images = to_float(photographs(48, 64))
    turn = policies.rand_recolouring(jnp.ones(2, int), jnp.ones(2))
    assert policies.OPERATIONS[1] == "Equalize"
    found = jax.jit(recolour)(images, [turn, turn])
    np.testing.assert_array_equal(found, jax.jit(equalize)(images))


def test_two_motions_are_one_warp():
    # A smooth picture, so that interpolating twice blurs little; and the part that neither of the
    # two in turn has filled.
    height, width = 96, 128
    y, x = np.arange(height)[:, None], np.arange(width)
    smooth = 128 + 60 * np.sin(x / 17) + 60 * np.cos(y / 13 + x / 40)
    picture = Image.fromarray(smooth.round().astype(np.uint8))
    white = Image.fromarray(np.full((height, width), 255, np.uint8))
    pairs = list(itertools.product(GEOMETRIC, repeat=2))
    operations = np.array([[policies.OPERATIONS.index(name) for name in pair] for pair in pairs]).T
    magnitudes = np.float32([0.6, -0.8])
    images = jnp.tile(to_float(np.asarray(picture))[None, :, :, None], (len(pairs), 1, 1, 1))

    @jax.jit
    def both(images):
        matrices = [
            policies.rand_matrices(jnp.array(number), jnp.full(len(pairs), m), height, width)
            for number, m in zip(operations, magnitudes, strict=True)
        ]
        return warp.affine_warp(images, warp.compose(*matrices), (0.0,))

    for found, pair in zip(np.asarray(both(images)), pairs, strict=True):
        seen, kept = picture, white
        for name, m in zip(pair, magnitudes.tolist(), strict=True):
            value = rand_value(name, m, height, width)
            seen = pillow(seen, name, value)
            # The fill is grey, so what is still white comes from within.
            kept = pillow(kept, name, value)
        inside = np.asarray(kept) == 255
        assert inside.mean() > 0.2, pair
        error = abs(found[:, :, 0] - np.asarray(seen) / 255)[inside]
        # Twice cut to a level is one level darker on average.
        assert error.mean() <= 1.2 * LEVEL, pair
        # At the edge of the first's outcome, Pillow repeats its last pixels.
        assert (error > 3 * LEVEL).mean() < 0.001, pair


def test_no_magnitude_is_no_change(photographs):
    images = to_float(photographs(32, 32, 3, len(policies.OPERATIONS)))
    operation = jnp.tile(jnp.arange(len(policies.OPERATIONS)), 2)
    found = np.asarray(rand_one(images, operation, jnp.zeros(len(images))))
    for outcome, image, number in zip(found, np.asarray(images), operation, strict=True):
        name = policies.OPERATIONS[int(number)]
        if name == "Posterize":
            assert abs(outcome - image).max() <= 15.01 * LEVEL  # four bits are kept
        elif name not in ("AutoContrast", "Equalize", "Invert"):
            np.testing.assert_array_equal(outcome, image)


def test_what_is_not_applied_changes_no_bit(photographs):
    images = to_float(photographs(48, 64, 3, 10))
    run = jax.jit(functools.partial(policies.rand_augment, fill=GREY, num_ops=1, probability=0.0))
    np.testing.assert_array_equal(run(make_keys(20), images), images)


@jax.jit
def rand_two(images, operations, magnitudes):
    turns = list(zip(operations.T, magnitudes.T, strict=True))
    images = recolour(images, [policies.rand_recolouring(*turn) for turn in turns])
    matrices = [policies.rand_matrices(*turn, *images.shape[1:3]) for turn in turns]
    return warp.affine_warp(images, warp.compose(*matrices), GREY)


def test_policies_are_their_draws(photographs):
    images, keys = to_float(photographs(32, 32, 3, 70)), make_keys(140)
    draw = jax.jit(policies.draw_rand_augment, static_argnums=(1, 2, 3, 4))
    expected = rand_two(images, *draw(keys, 2, 9.0, 0.5, 1.0))
    found = jax.jit(functools.partial(policies.rand_augment, fill=GREY, probability=1.0))(
        keys, images
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    # As many as above, for which it is compiled.
    expected = trivial_one(images, *jax.jit(policies.draw_trivial_augment)(keys))
    found = jax.jit(functools.partial(policies.trivial_augment, fill=GREY))(keys, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
