import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.ops.augment import (
    AugmentConfig,
    alternating,
    augment,
    example_keys,
    normalise,
    unit_range,
)

BOTH = AugmentConfig(crop_padding=2, flip="random")


def run(keys, images, config):
    """`augment`, compiled, from and to NumPy."""
    mean = (0.5,) * images.shape[-1]
    return np.asarray(jax.jit(augment, static_argnums=(2, 3))(keys, images, config, mean))


def make_images(shape, seed=0):
    """Random pixels, none of them black: padding cannot be taken for a part of the image."""
    return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def make_keys(number, seed=0):
    return jax.jit(example_keys)(jax.random.key(seed), np.arange(number))


def windows(image, padding):
    """All windows of the padded image, by their offset from its upper left corner."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return {
        (top, left): padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


def offset_of(crop, image, padding):
    (offset,) = (
        offset for offset, window in windows(image, padding).items() if np.array_equal(crop, window)
    )
    return offset


@pytest.mark.parametrize(("shape", "padding"), [((6, 7, 3), 2), ((9, 4, 1), 1), ((3, 3, 5), 2)])
def test_a_crop_is_a_window_of_the_padded_image(shape, padding):
    images = make_images((40, *shape))
    crops = run(make_keys(40), images, AugmentConfig(crop_padding=padding))
    assert crops.dtype == np.uint8
    assert crops.shape == images.shape
    # Exactly one window each, and not the same for all.
    offsets = {offset_of(crop, image, padding) for crop, image in zip(crops, images, strict=True)}
    assert len(offsets) > 4


def test_all_crops_and_flips_are_equally_likely():
    number, padding = 4000, 1
    image = make_images((4, 5, 3))
    images = np.broadcast_to(image, (number, *image.shape))
    config = AugmentConfig(crop_padding=padding, flip="random")
    out = run(make_keys(number), images, config)
    outcomes = [
        window[:, ::step] for step in (1, -1) for window in windows(image, padding).values()
    ]
    assert len(outcomes) == 3 * 3 * 2
    counts = [(out == outcome).all(axis=(1, 2, 3)).sum() for outcome in outcomes]
    assert sum(counts) == number
    # Also jointly: a flip tells nothing about the crop.
    expected = number / 18
    np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(expected * 17 / 18))


def test_a_flip_mirrors_left_and_right_for_half_of_the_images():
    images = make_images((1000, 3, 4, 2))
    out = run(make_keys(1000), images, AugmentConfig(flip="random"))
    assert out.dtype == np.uint8
    kept = (out == images).all(axis=(1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1000))


@pytest.mark.parametrize(
    ("config", "outcomes"),
    [
        (AugmentConfig(), 1),
        (AugmentConfig(flip="random"), 2),
        (AugmentConfig(crop_padding=1), 9),
        (AugmentConfig(crop_padding=1, flip="random"), 18),
    ],
)
def test_nothing_happens_that_was_not_asked_for(config, outcomes):
    image = make_images((4, 5, 3))
    images = np.broadcast_to(image, (500, *image.shape))
    out = run(make_keys(500), images, config)
    found = {example.tobytes() for example in out}
    assert len(found) == outcomes
    assert image.tobytes() in found


def test_an_example_does_not_depend_on_the_others_in_its_batch():
    images, keys = make_images((12, 6, 7, 3)), make_keys(12)
    whole = run(keys, images, BOTH)
    halves = [run(keys[part], images[part], BOTH) for part in (slice(0, 5), slice(5, 12))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    # In another order, and beside other images.
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(run(keys[order], images[order], BOTH), whole[order])
    others = make_images((12, 6, 7, 3), seed=1)
    others[3] = images[3]
    np.testing.assert_array_equal(run(keys, others, BOTH)[3], whole[3])


@pytest.mark.parametrize("devices", [2, 8])
def test_an_example_does_not_depend_on_the_number_of_devices(devices):
    images, places = make_images((16, 6, 7, 3)), np.arange(16)

    @jax.jit
    def step(key, places, images):
        return augment(example_keys(key, places), images, BOTH, (0.5,) * 3)

    key = jax.random.key(0)
    alone = step(key, places, images)
    assert len(alone.devices()) == 1
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    on_all = step(key, *jax.device_put((places, images), spread))
    assert len(on_all.devices()) == devices
    np.testing.assert_array_equal(on_all, alone)


def test_keys_depend_on_the_place_and_the_step_alone():
    def numbers(keys):
        return np.asarray(jax.random.key_data(keys))

    first = numbers(make_keys(8))
    np.testing.assert_array_equal(numbers(make_keys(3)), first[:3])
    shifted = example_keys(jax.random.key(0), jnp.arange(5, 8))
    np.testing.assert_array_equal(numbers(shifted), first[5:])
    together = np.concatenate([first, numbers(make_keys(8, seed=1))])
    assert len(np.unique(together, axis=0)) == 16


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)), ((0.5,), (0.25,))],
)
def test_normalise_equals_numpy(mean, std):
    # Every value of a pixel in every channel.
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(len(mean), axis=3)
    out = normalise(jnp.asarray(images), mean, std)
    assert out.dtype == jnp.float32
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_normalise_equals_torch():
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    images = make_images((2, 6, 7, 3))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    # What torchvision's ToTensor and Normalize do.
    pixels = torch.tensor(images).permute(0, 3, 1, 2).float().div(255)
    expected = pixels.sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])
    out = normalise(jnp.asarray(images), mean, std)
    np.testing.assert_allclose(out, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-6, atol=1e-6)


def test_a_reflected_crop_is_a_window_of_the_reflected_image():
    images = make_images((30, 6, 7, 3))
    crops = run(make_keys(30), images, AugmentConfig(crop_padding=2, crop_fill="reflect"))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    for crop, image in zip(crops, padded, strict=True):
        corners = [(top, left) for top in range(5) for left in range(5)]
        assert any(np.array_equal(crop, image[y : y + 6, x : x + 7]) for y, x in corners)


def test_alternating_flips_take_turns_and_stay_an_images_own():
    first = make_keys(1000)
    epochs = [np.asarray(alternating(first, jnp.int32(epoch))) for epoch in range(4)]
    assert epochs[0].mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1000))
    np.testing.assert_array_equal(epochs[1], ~epochs[0])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    np.testing.assert_array_equal(epochs[3], epochs[1])
    images = make_images((1000, 2, 3, 1))
    config = AugmentConfig(flip="alternating")
    out = augment(
        make_keys(1000, seed=5), jnp.asarray(images), config, (0.5,), jnp.asarray(epochs[0])
    )
    np.testing.assert_array_equal(
        out, np.where(epochs[0][:, None, None, None], images[:, :, ::-1], images)
    )


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_pixels_of_every_depth_have_one_range(dtype, top):
    images = np.array([0, top / 4, top / 2, top]).astype(dtype).reshape(1, 2, 2, 1)
    out = unit_range(jnp.asarray(images))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, images / np.float64(top), rtol=1e-6)


def test_floats_beyond_0_to_1_are_normalised_as_they_are():
    images = np.array([-1000.0, 500.0, 3000.0], np.float32).reshape(1, 1, 3, 1)
    out = normalise(jnp.asarray(images), (500.0,), (250.0,))
    np.testing.assert_allclose(np.asarray(out).reshape(-1), [-6, 0, 10])


EVERYTHING = AugmentConfig(
    crop_area=(0.3, 1.0),
    flip="random",
    policy="randaugment",
    colour_jitter=0.3,
    erasing=0.5,
    mixup=0.8,
    cutmix=1.0,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "threeaugment"])
def test_policies_keep_shape_and_range_and_change_pixels(policy, channels):
    images = make_images((8, 12, 10, channels))
    config = dataclasses.replace(EVERYTHING, policy=policy, rand_probability=1.0)
    out = run(make_keys(8), images, config)
    assert out.shape == images.shape
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    plain = run(make_keys(8), images, dataclasses.replace(config, policy="none", colour_jitter=0.0))
    assert (np.abs(out - plain).reshape(8, -1).max(axis=1) > 0.01).all()


def test_each_use_of_randomness_has_its_own():
    # The same key for crop and flip, say, would tie the one to the other.
    images = make_images((400, 8, 8, 1))
    cropped = run(make_keys(400), images, AugmentConfig(crop_padding=2))
    both = run(make_keys(400), images, AugmentConfig(crop_padding=2, flip="random"))
    flipped = (both == cropped[:, :, ::-1]).all(axis=(1, 2, 3))
    offsets = [offset_of(crop, image, 2) for crop, image in zip(cropped, images, strict=True)]
    for part in ([o[0] < 2 for o in offsets], [o[1] < 2 for o in offsets]):
        share = flipped[np.array(part)].mean()
        assert share == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / sum(part)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_area": (0.5, 0.2)}, r"crop_area=\(0\.5, 0\.2\): should be two shares"),
        ({"crop_area": (0.0, 0.2)}, "crop_area"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"crop_area": (0.1, 1.0), "crop_padding": 4}, "crop_padding crops as well"),
        ({"rand_magnitude": 11.0}, r"rand_magnitude=11\.0: should be at least 0 and at most 10"),
        ({"mixup": -0.1}, r"mixup=-0\.1: should be at least 0$"),
        ({"erasing": 1.5}, r"erasing=1\.5: should be at least 0 and at most 1"),
        ({"repeats": 0}, "repeats=0: should be at least 1"),
        ({"cutmix": float("inf")}, "cutmix=inf"),
    ],
)
def test_fields_outside_their_range_are_named(fields, message):
    (problem,) = AugmentConfig(**fields).problems()
    assert re.search(message, problem)
    assert AugmentConfig().problems() == EVERYTHING.problems() == []
