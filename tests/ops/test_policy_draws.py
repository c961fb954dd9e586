"""What the policies draw, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.ops import policies
from vit_jax.ops.colour import gaussian_blur, grayscale, solarize

LEVEL = 1 / 255


def to_float(images):
    return jnp.float32(images) / 255


def make_keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def assert_share(found, expected):
    """So many of the values hold, within 4.5 deviations."""
    tolerance = 4.5 * np.sqrt(expected * (1 - expected) / found.size)
    assert found.mean() == pytest.approx(expected, abs=tolerance)


def test_rand_augment_draws_evenly():
    number, total = 20000, len(policies.OPERATIONS)
    draw = jax.jit(policies.draw_rand_augment, static_argnums=(1, 2, 3, 4))
    operations, magnitudes = map(np.asarray, draw(make_keys(number), 2, 9.0, 0.5, 0.5))
    assert operations.shape == magnitudes.shape == (number, 2)
    for slot in range(2):
        assert_share(operations[:, slot] == -1, 0.5)
        for operation in range(total):
            assert_share(operations[:, slot] == operation, 0.5 / total)
    # The places are drawn apart, with replacement.
    assert_share((operations == -1).all(axis=1), 0.25)
    assert_share((operations[:, 0] == operations[:, 1]) & (operations[:, 0] >= 0), 0.25 / total)
    assert_share(magnitudes > 0, 0.5)
    assert_share((magnitudes > 0).all(axis=1), 0.25)
    # Of N(9, 0.5), 2.275 % lie above 10.
    strengths = abs(magnitudes)
    assert_share(strengths == 1, 0.02275)
    assert_share(strengths < 0.85, 0.15866)
    assert_share(strengths < 0.9, 0.5)
    assert abs(np.corrcoef(magnitudes.T)[0, 1]) < 4.5 / np.sqrt(number)


def test_a_certain_rand_augment_has_one_magnitude():
    draw = jax.jit(policies.draw_rand_augment, static_argnums=(1, 2, 3, 4))
    operations, magnitudes = draw(make_keys(500), 3, 7.0, 0.0, 1.0)
    assert operations.shape == (500, 3)
    assert set(np.unique(operations)) == set(range(len(policies.OPERATIONS)))
    np.testing.assert_allclose(abs(magnitudes), 0.7, rtol=1e-6)


def test_trivial_augment_draws_evenly():
    number, total = 20000, len(policies.TRIVIAL_OPERATIONS)
    assert total == 14
    operations, magnitudes = map(
        np.asarray, jax.jit(policies.draw_trivial_augment)(make_keys(number))
    )
    for operation in range(total):
        assert_share(operations == operation, 1 / total)
    strengths = abs(magnitudes) * 30
    np.testing.assert_allclose(strengths, np.round(strengths), atol=1e-4)
    for strength in range(31):
        assert_share(np.round(strengths) == strength, 1 / 31)
    assert_share(magnitudes > 0, 0.5 * 30 / 31)
    # A strength says nothing about the operation.
    assert abs(np.corrcoef(strengths, operations)[0, 1]) < 4.5 / np.sqrt(number)


@pytest.mark.parametrize("channels", [3, 1])
def test_three_augment_is_one_of_three(channels, photographs):
    number = 1500
    image = to_float(photographs(16, 20, channels)[1])
    images = jnp.broadcast_to(image, (number, *image.shape))
    found = np.asarray(jax.jit(policies.three_augment)(make_keys(number), images))
    grey = np.isclose(found, grayscale(image[None]), atol=1e-6).all(axis=(1, 2, 3))
    half = jnp.array([128 / 255])
    negative = np.isclose(found, solarize(image[None], half), atol=1e-6).all(axis=(1, 2, 3))
    for share in (grey, negative):
        assert_share(share, 1 / 3)
    blurred = found[~grey & ~negative]
    # Blurred by 0.1 to 2 pixels, evenly: told by the closest of many.
    sigmas = jnp.linspace(0.1, 2, 39)
    candidates = jax.jit(gaussian_blur)(jnp.broadcast_to(image, (39, *image.shape)), sigmas)
    distance = abs(blurred[:, None] - np.asarray(candidates)).max(axis=(2, 3, 4))
    assert distance.min(axis=1).max() < 3 * LEVEL
    closest = np.asarray(sigmas)[distance.argmin(axis=1)]
    for bound in (0.475, 1.025, 1.575):
        assert_share(closest < bound, (bound - 0.1) / 1.9)
