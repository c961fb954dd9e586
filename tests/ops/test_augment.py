import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.ops.augment import (
    AugmentConfig,
    augment,
    example_keys,
    normalise,
)

BOTH = AugmentConfig(crop_padding=2, flip=True)


def run(keys, images, config):
    """`augment`, compiled, from and to NumPy."""
    return np.asarray(jax.jit(augment, static_argnums=2)(keys, images, config))


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
    config = AugmentConfig(crop_padding=padding, flip=True)
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
    out = run(make_keys(1000), images, AugmentConfig(flip=True))
    assert out.dtype == np.uint8
    kept = (out == images).all(axis=(1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1000))


@pytest.mark.parametrize(
    ("config", "outcomes"),
    [
        (AugmentConfig(), 1),
        (AugmentConfig(flip=True), 2),
        (AugmentConfig(crop_padding=1), 9),
        (AugmentConfig(crop_padding=1, flip=True), 18),
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
        return augment(example_keys(key, places), images, BOTH)

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
