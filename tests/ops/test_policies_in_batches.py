"""An image's augmentation follows from its key and its pixels alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.ops import policies, warp
from vit_jax.ops.colour import colour_jitter

GREY = (0.48, 0.45, 0.41)
POLICIES = {
    "rand": functools.partial(policies.rand_augment, fill=GREY, probability=1.0),
    "trivial": functools.partial(policies.trivial_augment, fill=GREY),
    "three": policies.three_augment,
    "jitter": functools.partial(colour_jitter, brightness=0.3, contrast=0.3, saturation=0.3),
    "crop": functools.partial(warp.random_resized_crop, size=(20, 24)),
}
BATCH = 48


def to_float(images):
    return jnp.float32(images) / 255


def make_keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@pytest.fixture(scope="module", params=POLICIES)
def policy(request):
    return jax.jit(POLICIES[request.param])


def test_an_image_does_not_depend_on_its_neighbours(policy, photographs):
    images, keys = to_float(photographs(32, 40, 3, BATCH // 2)), make_keys(BATCH)
    whole = np.asarray(policy(keys, images))
    order = np.random.default_rng(0).permutation(BATCH)
    np.testing.assert_array_equal(policy(keys[order], images[order]), whole[order])
    # Beside others, where nothing else may be drawn that is drawn here.
    others = jnp.zeros_like(images).at[7].set(images[7])
    same = jnp.broadcast_to(make_keys(1, seed=1), BATCH).at[7].set(keys[7])
    np.testing.assert_allclose(policy(same, others)[7], whole[7], rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_the_number_of_devices(policy, photographs):
    images, keys = to_float(photographs(32, 40, 3, BATCH // 2)), make_keys(BATCH)
    alone = policy(keys, images)
    assert len(alone.devices()) == 1
    spread = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    on_all = policy(*jax.device_put((keys, images), spread))
    assert len(on_all.devices()) == 8
    # Programs of other shapes may round otherwise where a pixel comes from: by 40 * 2^-23 of a
    # pixel, and neighbours differ by up to 1.
    np.testing.assert_allclose(on_all, alone, rtol=0, atol=6e-6)


def test_a_key_says_everything(policy, photographs):
    image = to_float(photographs(32, 40)[0])
    images = jnp.broadcast_to(image, (BATCH, *image.shape))
    first = np.asarray(policy(make_keys(BATCH), images))
    np.testing.assert_array_equal(policy(make_keys(BATCH), images), first)
    outcomes = {outcome.tobytes() for outcome in first}
    other = {outcome.tobytes() for outcome in np.asarray(policy(make_keys(BATCH, 1), images))}
    # Some operations have one outcome only; 3-Augment has least.
    assert len(outcomes) > BATCH / 4
    assert len(other - outcomes) > BATCH / 4
