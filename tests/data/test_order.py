"""Which examples make up a batch: a function of seed and step."""

import dataclasses

import numpy as np
import pytest

from vit_jax.data.order import Order

SIZE = 23


@pytest.fixture
def make_order():
    return lambda batch_size=5, seed=0, repeats=1: Order(SIZE, batch_size, seed, repeats)


def indices(order, epoch):
    """The images of an epoch in their order, without padding."""
    batches = [
        order.slots(step)
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    ]
    return [
        int(i) for slots in batches for i, m in zip(slots["index"], slots["mask"], strict=True) if m
    ]


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_an_epoch_is_every_image_exactly_once(make_order, batch_size, seed):
    order = make_order(batch_size, seed)
    assert order.num_examples == SIZE
    assert order.steps_per_epoch == -(-SIZE // batch_size)
    for epoch in (0, 1, 7):
        assert sorted(indices(order, epoch)) == list(range(SIZE))


def test_the_order_differs_between_epochs_and_seeds(make_order):
    orders = [indices(make_order(seed=seed), epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 9
    assert list(range(SIZE)) not in orders


def test_without_a_seed_the_order_is_the_sources_own(make_order):
    order = make_order(seed=None)
    assert indices(order, 0) == indices(order, 3) == list(range(SIZE))


def test_the_order_depends_on_seed_and_epoch_alone(make_order):
    # Not on the batch size, nor on what was asked for before.
    expected = indices(make_order(batch_size=5), 4)
    assert indices(make_order(batch_size=9), 4) == expected
    used = make_order(batch_size=5)
    for step in (99, 3, 37, 0):
        used.slots(step)
    assert indices(used, 4) == expected


def test_a_step_is_the_same_asked_for_first_or_last(make_order):
    first = make_order().slots(37)
    order = make_order()
    for step in [*range(60), *reversed(range(60))]:
        order.slots(step)
    last = order.slots(37)
    assert first.keys() == last.keys() == {"index", "place", "mask"}
    for name in ("index", "place", "mask"):
        np.testing.assert_array_equal(first[name], last[name])


@pytest.mark.parametrize(("batch_size", "full"), [(5, 3), (23, 23), (40, 23), (22, 1)])
def test_the_last_batch_of_an_epoch_is_padded(make_order, batch_size, full):
    order = make_order(batch_size)
    slots = order.slots(order.steps_per_epoch - 1)
    assert slots["mask"].tolist() == [1.0] * full + [0.0] * (batch_size - full)
    assert slots["place"].tolist() == list(range(batch_size))
    assert slots["index"].shape == (batch_size,)
    assert set(slots["index"].tolist()) <= set(range(SIZE))  # padding points at a real image
    assert {name: value.dtype for name, value in slots.items()} == {
        "index": np.int32,
        "place": np.int32,
        "mask": np.float32,
    }


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_hold_each_example_as_often_and_never_beside_itself(repeats):
    order = Order(100, 12, seed=3, repeats=repeats)
    assert order.steps_per_epoch == 9
    seen = []
    for step in range(order.steps_per_epoch):
        slots = order.slots(step)
        names, counts = np.unique(slots["index"], return_counts=True)
        assert counts.tolist() == [repeats] * (12 // repeats)
        assert slots["mask"].all()
        # Pairs of neighbours are mixed with each other.
        assert (slots["index"][::2] != slots["index"][1::2]).all()
        seen += names.tolist()
    assert len(seen) == len(set(seen))


def test_an_epoch_cannot_be_changed_by_who_asks_for_it(make_order):
    first = make_order().slots(2)
    first["index"] += 1
    first["mask"] *= 0
    again = make_order().slots(2)
    assert again["mask"].all()
    assert (again["index"] == first["index"] - 1).all()


def test_shares_put_together_are_the_whole_batch():
    whole = Order(num_examples=10, batch_size=8, seed=3, repeats=2)
    shares = [dataclasses.replace(whole, share=(which, 4)) for which in range(4)]
    assert shares[0].steps_per_epoch == whole.steps_per_epoch
    for step in range(4):
        parts = [order.slots(step) for order in shares]
        for name, expected in whole.slots(step).items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)
