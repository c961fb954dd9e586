"""The resident feed: pixels gathered on the devices."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.data.order import Order
from vit_jax.data.resident import ResidentFeed
from vit_jax.data.source import ArraySource
from vit_jax.sharding import batch_sharded, make_mesh, replicated

SIZE = 23


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    return ArraySource(
        rng.integers(0, 256, (SIZE, 4, 3, 2), dtype=np.uint8),
        rng.integers(0, 7, SIZE).astype(np.int32),
        tuple("abcdefg"),
        "",
    )


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("share", [replicated, batch_sharded])
def test_gather_inside_jit_takes_pixels_and_labels_of_the_plan(source, devices, share):
    mesh = make_mesh(jax.devices()[:devices])
    feed = ResidentFeed(source, Order(SIZE, 8, seed=1), share(mesh))
    images, _ = feed.resident
    assert images.sharding == share(mesh)
    # Each device holds all images, or its part of them, and no more.
    rows = SIZE if share is replicated else -(-SIZE // devices)
    assert {shard.data.shape[0] for shard in images.addressable_shards} == {rows}
    gathered = jax.jit(feed.gather, in_shardings=(share(mesh), batch_sharded(mesh)))
    for step in range(2 * feed.steps_per_epoch):
        plan = feed.plan(step)
        batch = gathered(feed.resident, jax.device_put(plan, batch_sharded(mesh)))
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"], source.images[plan["index"]])
        np.testing.assert_array_equal(batch["label"], source.labels[plan["index"]])
        for name in ("index", "place", "mask"):
            np.testing.assert_array_equal(batch[name], plan[name])


def test_collecting_from_all_devices_never_gathers_the_images(source):
    mesh = make_mesh(jax.devices())
    feed = ResidentFeed(source, Order(SIZE, 8), batch_sharded(mesh))
    shardings = batch_sharded(mesh), batch_sharded(mesh)
    plan = jax.device_put(feed.plan(0), shardings[1])
    compiled = jax.jit(feed.gather, in_shardings=shardings).lower(feed.resident, plan).compile()
    program = compiled.as_text()
    assert "reduce-scatter" in program
    # Rows of 24 padded examples would be the images; only the 8 indices may be gathered whole.
    gathers = [line for line in program.splitlines() if "all-gather(" in line]
    assert all("u8[" not in line for line in gathers)


def test_examples_without_a_picture_are_masked_and_the_others_keep_their_places(source):
    sharding = replicated(make_mesh(jax.devices()[:1]))
    bad = dataclasses.replace(source, bad={3: "is torn", 17: "is empty"})
    order = Order(SIZE, 8, seed=1)
    feed, whole = (ResidentFeed(images, order, sharding) for images in (bad, source))
    assert feed.bad_images == {"3": "is torn", "17": "is empty"}
    left_out = 0
    for step in range(feed.steps_per_epoch):
        plan, before = feed.plan(step), whole.plan(step)
        np.testing.assert_array_equal(plan["index"], before["index"])
        expected = before["mask"] * ~np.isin(plan["index"], [3, 17])
        np.testing.assert_array_equal(plan["mask"], expected)
        left_out += int((before["mask"] - plan["mask"]).sum())
    assert left_out == 2
