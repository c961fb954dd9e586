"""Colours against Pillow's, on photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageEnhance, ImageFilter, ImageOps

from vit_jax.ops import colour

SHAPES = [((32, 32), 3), ((48, 64), 3), ((48, 64), 1), ((224, 224), 3), ((224, 224), 1)]
LEVEL = 1 / 255


def enhance(kind):
    return lambda picture, factor: kind(picture).enhance(factor)


def add_to_dark(picture, level):
    table = [min(255, v + int(level)) if v < 128 else v for v in range(256)]
    return picture.point(table * len(picture.getbands()))


def smoothed(picture, _):
    return picture.filter(ImageFilter.SMOOTH)


# ours, Pillow's, values for ours, values for Pillow's.
FACTORS = np.array([0.1, 0.55, 1.0, 1.9])
BLENDS = {
    "brightness": (colour.brightness, enhance(ImageEnhance.Brightness), FACTORS, FACTORS),
    "contrast": (colour.contrast, enhance(ImageEnhance.Contrast), FACTORS, FACTORS),
    "colour": (colour.colour, enhance(ImageEnhance.Color), FACTORS, FACTORS),
    "sharpness": (colour.sharpness, enhance(ImageEnhance.Sharpness), FACTORS, FACTORS),
    "smooth": (lambda x, _: colour.smooth(x), smoothed, FACTORS, FACTORS),
    "autocontrast": (
        lambda x, _: colour.autocontrast(x),
        lambda p, _: ImageOps.autocontrast(p),
        FACTORS,
        FACTORS,
    ),
    "blur": (
        colour.gaussian_blur,
        lambda p, s: p.filter(ImageFilter.GaussianBlur(float(s))),
        *([np.array([0.1, 0.4, 1.4, 2.0])] * 2),
    ),
    "grayscale": (
        lambda x, _: colour.grayscale(x),
        lambda p, _: p.convert("L").convert(p.mode),
        FACTORS,
        FACTORS,
    ),
}
BITS, LEVELS = np.array([1, 3, 4, 8]), np.array([1, 77, 128, 256])
EXACT = {
    "posterize": (colour.posterize, lambda p, n: ImageOps.posterize(p, int(n)), BITS, BITS),
    "solarize": (colour.solarize, lambda p, n: ImageOps.solarize(p, n), LEVELS / 255, LEVELS),
    "solarize_add": (colour.solarize_add, add_to_dark, LEVELS / 255, LEVELS),
    "invert": (lambda x, _: colour.invert(x), lambda p, _: ImageOps.invert(p), BITS, BITS),
    "equalize": (lambda x, _: colour.equalize(x), lambda p, _: ImageOps.equalize(p), BITS, BITS),
}


@pytest.fixture
def both(photographs, by_pillow):
    """What we and what Pillow make of two photographs with each of four values."""

    def run(case, size, channels, source="samples"):
        ours, theirs, values, their_values = case
        images = photographs(*size, channels, len(values), source)
        found = jax.jit(ours)(to_float(images), jnp.tile(jnp.float32(values), 2))
        assert found.dtype == jnp.float32
        return np.asarray(found), by_pillow(theirs, images, np.tile(their_values, 2))

    return run


def to_float(images):
    return jnp.float32(images) / 255


@pytest.mark.parametrize(("size", "channels"), SHAPES, ids=str)
@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_pillows(name, size, channels, both):
    found, expected = both(BLENDS[name], size, channels)
    # Pillow cuts the result to a level, after it has rounded the base to one. A blur is six passes,
    # each rounded by up to half a level.
    assert abs(found - expected).mean(axis=(1, 2, 3)).max() <= LEVEL
    assert abs(found - expected).max() <= (3 if name == "blur" else 2) * LEVEL


@pytest.mark.parametrize(("size", "channels"), SHAPES, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_what_is_about_levels_is_exactly_pillows(name, size, channels, both):
    found, expected = both(EXACT[name], size, channels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sharpness", "contrast", "autocontrast"])
def test_other_photographs(name, both):
    found, expected = both(BLENDS[name], (224, 224), 3, "hymenoptera")
    assert abs(found - expected).mean(axis=(1, 2, 3)).max() <= LEVEL
    assert abs(found - expected).max() <= 2 * LEVEL


def test_other_photographs_are_equalized_exactly(both):
    found, expected = both(EXACT["equalize"], (224, 224), 3, "hymenoptera")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_blur_has_its_variance():
    images = np.zeros((3, 41, 51, 1), np.float32)
    images[:, 20, 25] = 1
    sigma = np.array([0.3, 1.0, 2.0], np.float32)
    blurred = np.asarray(jax.jit(colour.gaussian_blur)(images, sigma))[..., 0]
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), 1, rtol=1e-5)
    for axis, middle in ((1, 20), (2, 25)):
        distance = np.arange(images.shape[axis]) - middle
        variance = (blurred.sum(axis=3 - axis) * distance**2).sum(axis=1)
        np.testing.assert_allclose(variance, sigma**2, rtol=1e-4)


@pytest.mark.parametrize("name", ["brightness", "contrast", "colour", "sharpness"])
def test_a_factor_of_one_changes_no_bit(name):
    images = jnp.float32(np.random.default_rng(0).random((2, 6, 7, 3)))
    np.testing.assert_array_equal(getattr(colour, name)(images, jnp.ones(2)), images)


def test_flat_images_stay():
    # One level, and for equalize too few pixels of lower levels: Pillow leaves both alone.
    levels = np.full((2, 8, 8, 3), 77, np.uint8)
    levels[1, 0, 0] = 3
    images = to_float(levels)
    np.testing.assert_array_equal(jax.jit(colour.equalize)(images), images)
    stretched = np.asarray(jax.jit(colour.autocontrast)(images))
    np.testing.assert_array_equal(stretched[0], images[0])
    assert set(np.unique(stretched[1])) == {0, 1}


def test_equalize_rounds_to_levels_and_stays_within_them(by_pillow):
    # Few, uneven levels: Pillow's whole-number quotients reach beyond 255.
    levels = np.random.default_rng(1).choice([9, 10, 200], (3, 32, 32, 1), p=[0.6, 0.3, 0.1])
    levels = levels.astype(np.uint8)
    noise = np.random.default_rng(2).uniform(-0.4, 0.4, levels.shape) / 255
    found = jax.jit(colour.equalize)(to_float(levels) + jnp.float32(noise))
    np.testing.assert_allclose(found, by_pillow(ImageOps.equalize, levels), atol=1e-6)


def test_both_ways_to_count_agree():
    levels = jnp.asarray(np.random.default_rng(0).integers(0, 512, (5, 300)), jnp.int32)
    expected = np.stack([np.bincount(line, minlength=512) for line in np.asarray(levels)])
    np.testing.assert_array_equal(colour._histograms(levels, 512), expected)
    np.testing.assert_array_equal(colour._histograms_in_one(levels, 512), expected)


def test_two_channels_have_no_colour():
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        colour.luma(jnp.zeros((1, 4, 4, 2)))
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        colour.mean_grey(jnp.zeros((1, 4, 4, 2)))


def make_keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_colour_jitter_is_its_three_blends_in_their_order(channels, photographs, by_pillow):
    kinds = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
    images, strengths, keys = photographs(48, 64, channels, 12), (0.4, 0.7, 0.9), make_keys(24)
    orders, factors = (np.asarray(a) for a in colour.draw_colour_jitter(keys, strengths))

    def jitter(picture, order, factor):
        for kind in order:
            picture = kinds[kind](picture).enhance(factor[kind])
        return picture

    found = jax.jit(colour.colour_jitter, static_argnums=(2, 3, 4))(
        keys, to_float(images), *strengths
    )
    expected = by_pillow(jitter, images, orders, factors)
    # Three times 8 bits.
    assert abs(found - expected).mean(axis=(1, 2, 3)).max() <= 2 * LEVEL


def test_jitters_are_drawn_evenly():
    number, strengths = 12000, (0.2, 1.5, 0.0)
    draw = jax.jit(colour.draw_colour_jitter, static_argnums=1)
    orders, factors = (np.asarray(a) for a in draw(make_keys(number), strengths))
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, number / 6, atol=4.5 * np.sqrt(number * 5 / 36))
    for column, (low, high) in zip(factors.T[:2], [(0.8, 1.2), (0, 2.5)], strict=True):
        counts, _ = np.histogram(column, bins=10, range=(low, high))
        assert counts.sum() == number
        np.testing.assert_allclose(counts, number / 10, atol=4.5 * np.sqrt(number * 0.09))
    assert (factors[:, 2] == 1).all()
    # What one image's numbers say about each other: nothing.
    assert abs(np.corrcoef(factors[:, 0], factors[:, 1])[0, 1]) < 4.5 / np.sqrt(number)
