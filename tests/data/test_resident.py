"""The resident feed: batches as a function of the step, and pixels gathered on the device."""

import jax
import numpy as np
import pytest

from vit_jax.data.resident import ResidentFeed, gather
from vit_jax.data.source import ArraySource
from vit_jax.sharding import make_mesh, replicated

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


@pytest.fixture(scope="module")
def sharding():
    return replicated(make_mesh(jax.devices()[:1]))


@pytest.fixture
def make_feed(source, sharding):
    return lambda batch_size=5, seed=0: ResidentFeed(source, batch_size, sharding, seed)


def indices(feed, epoch):
    """The images of an epoch in their order, without padding."""
    plans = [
        feed.plan(step)
        for step in range(epoch * feed.steps_per_epoch, (epoch + 1) * feed.steps_per_epoch)
    ]
    return [int(i) for plan in plans for i, m in zip(plan["index"], plan["mask"], strict=True) if m]


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_an_epoch_is_every_image_exactly_once(make_feed, batch_size, seed):
    feed = make_feed(batch_size, seed)
    assert feed.num_examples == SIZE
    assert feed.steps_per_epoch == -(-SIZE // batch_size)
    for epoch in (0, 1, 7):
        assert sorted(indices(feed, epoch)) == list(range(SIZE))


def test_the_order_differs_between_epochs_and_seeds(make_feed):
    orders = [indices(make_feed(seed=seed), epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 9
    assert list(range(SIZE)) not in orders


def test_without_a_seed_the_order_is_the_sources_own(make_feed):
    feed = make_feed(seed=None)
    assert indices(feed, 0) == indices(feed, 3) == list(range(SIZE))


def test_the_order_depends_on_seed_and_epoch_alone(make_feed):
    # Not on the batch size, nor on what was asked for before.
    expected = indices(make_feed(batch_size=5), 4)
    assert indices(make_feed(batch_size=9), 4) == expected
    used = make_feed(batch_size=5)
    for step in (99, 3, 37, 0):
        used.plan(step)
    assert indices(used, 4) == expected


def test_a_step_is_the_same_asked_for_first_or_last(make_feed):
    first = make_feed().plan(37)
    feed = make_feed()
    for step in [*range(60), *reversed(range(60))]:
        feed.plan(step)
    last = feed.plan(37)
    assert first.keys() == last.keys() == {"index", "place", "mask"}
    for name in ("index", "place", "mask"):
        np.testing.assert_array_equal(first[name], last[name])


@pytest.mark.parametrize(("batch_size", "full"), [(5, 3), (23, 23), (40, 23), (22, 1)])
def test_the_last_batch_of_an_epoch_is_padded(make_feed, batch_size, full):
    feed = make_feed(batch_size)
    plan = feed.plan(feed.steps_per_epoch - 1)
    assert plan["mask"].tolist() == [1.0] * full + [0.0] * (batch_size - full)
    assert plan["place"].tolist() == list(range(batch_size))
    assert plan["index"].shape == (batch_size,)
    assert set(plan["index"].tolist()) <= set(range(SIZE))  # padding points at a real image
    assert {name: value.dtype for name, value in plan.items()} == {
        "index": np.int32,
        "place": np.int32,
        "mask": np.float32,
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_gather_inside_jit_takes_pixels_and_labels_of_the_plan(source, devices):
    mesh = make_mesh(jax.devices()[:devices])
    feed = ResidentFeed(source, 8, replicated(mesh), seed=1)
    images, _ = feed.resident
    assert images.sharding == replicated(mesh)
    gathered = jax.jit(gather)
    for step in range(2 * feed.steps_per_epoch):
        plan = feed.plan(step)
        batch = gathered(feed.resident, plan)
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"], source.images[plan["index"]])
        np.testing.assert_array_equal(batch["label"], source.labels[plan["index"]])
        np.testing.assert_array_equal(batch["place"], plan["place"])
        np.testing.assert_array_equal(batch["mask"], plan["mask"])
