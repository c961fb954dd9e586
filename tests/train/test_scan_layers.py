"""Trainings with one compiled block learn what they learn without."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.train import setup

STEPS = 10


def losses(config, devices, monkeypatch, steps=STEPS, **changes):
    """Of a training on the first few of the fake devices."""
    monkeypatch.setattr(sharding, "SMALLEST", 64)  # from which arrays are shared
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:devices])
    job = setup.set_up(dataclasses.replace(config, steps=steps, **changes))
    state, found = job.initial_state(), []
    for step in range(steps):
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        found.append(float(metrics["loss"]))
    if job.sharding is not None:
        for leaf, where in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(job.sharding.params), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
    return found


@pytest.fixture
def config(plain_config):
    return dataclasses.replace(plain_config, model=plain_config.model.clone(depth=3))


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.mark.parametrize(
    ("devices", "fields", "changes"),
    [
        (1, {}, {}),
        (2, {}, {"parallel": "pmap"}),
        (8, {"remat": "dots"}, {"fsdp": 4}),
        (2, {"remat": "full"}, {"accumulate_steps": 2}),
    ],
    ids=str,
)
def test_losses_are_those_without(config, devices, fields, changes, known, monkeypatch):
    if not known:
        known["losses"] = losses(config, 1, monkeypatch)
    expected = known["losses"]
    model = config.model.clone(scan_layers=True, **fields)
    found = losses(config, devices, monkeypatch, model=model, **changes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert expected[0] - expected[-1] > 0.01, "the training should go somewhere"


def test_random_masks_do_not_depend_on_devices_under_jit(tiny_config, monkeypatch):
    model = tiny_config.model.clone(scan_layers=True)
    expected = losses(tiny_config, 1, monkeypatch, steps=3, model=model)
    found = losses(tiny_config, 8, monkeypatch, steps=3, model=model)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # Other masks than without, of the same kind.
    without = losses(tiny_config, 1, monkeypatch, steps=3)
    assert not np.allclose(found, without, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, without, rtol=0.1)
