"""The same training on any number of devices, under jit and under pmap."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.train import setup


def losses(config, num_devices, parallel, monkeypatch, steps=10):
    """Losses and the last gradient norm of a training on the first few of the fake devices."""
    devices = jax.local_devices()[:num_devices]
    assert len(devices) == num_devices
    monkeypatch.setattr(setup, "select_devices", lambda device: devices)
    job = setup.set_up(dataclasses.replace(config, parallel=parallel, steps=steps))
    state, found = job.initial_state(), []
    for step in range(steps):
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        found.append(float(metrics["loss"]))
    return found, float(metrics["gradient_norm"])


@pytest.mark.parametrize("parallel", ["auto", "pmap"])
@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_losses_do_not_depend_on_devices(plain_config, num_devices, parallel, monkeypatch):
    # 144 images in batches of 64: every third batch is padded, unevenly over the devices.
    expected, expected_norm = losses(plain_config, 1, "auto", monkeypatch)
    found, norm = losses(plain_config, num_devices, parallel, monkeypatch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(norm, expected_norm, rtol=1e-4)
    assert expected[0] - expected[-1] > 0.01, "the training should go somewhere"


def test_random_masks_do_not_depend_on_devices_under_jit(tiny_config, monkeypatch):
    expected, _ = losses(tiny_config, 1, "auto", monkeypatch)
    found, _ = losses(tiny_config, 8, "auto", monkeypatch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_pmap_draws_other_dropout_masks_on_each_device(tiny_config, monkeypatch):
    expected, _ = losses(tiny_config, 1, "auto", monkeypatch, steps=3)
    found, _ = losses(tiny_config, 2, "pmap", monkeypatch, steps=3)
    assert not np.allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=0.1)
