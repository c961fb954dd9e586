"""Gradients of parts, summed, are the gradient of the whole; and batches that are left out."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import ViT
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig
from vit_jax.train import setup
from vit_jax.train.memory import lower_train_step, setting_of
from vit_jax.train.state import init_state
from vit_jax.train.step import Recipe, train_step

METRICS = ("loss", "correct", "examples", "gradient_norm", "learning_rate")


@pytest.fixture
def config(plain_config):
    """144 images in batches of 64, so that every third batch is padded, with all that mixes.

    Momentum, not AdamW: AdamW divides by the gradient's size, which turns the rounding of gradients
    that are zero but for it (the bias of keys) into steps of full length.
    """
    return dataclasses.replace(
        plain_config,
        augment=AugmentConfig(crop_padding=1, flip="random", mixup=0.8, cutmix=1.0),
        optim=OptimConfig(name="sgd", learning_rate=0.3, clip_norm=0.3, ema_decay=0.9),
        model=plain_config.model.clone(depth=1),
    )


def job_on(config, num_devices, parallel, parts, monkeypatch):
    devices = jax.local_devices()[:num_devices]
    assert len(devices) == num_devices
    monkeypatch.setattr(setup, "select_devices", lambda device: devices)
    config = dataclasses.replace(config, parallel=parallel, accumulate_steps=parts, steps=10)
    return setup.set_up(config)


def trained(job):
    """The final state and the metrics of ten steps, each as an array."""
    state, rows = job.initial_state(), []
    for step in range(job.total_steps):
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        rows.append([float(metrics[name]) for name in METRICS])
    return jax.device_get(state), dict(zip(METRICS, np.transpose(rows), strict=True))


@pytest.mark.long
@pytest.mark.slow
def test_a_training_in_parts_is_the_training_with_the_large_batch(config, monkeypatch):
    whole, expected = trained(job_on(config, 1, "auto", 1, monkeypatch))
    assert expected["examples"].min() < 64, "a batch should be padded"
    assert expected["gradient_norm"].max() > 0.3, "some gradients should be clipped"
    assert np.ptp(expected["loss"]) > 0.1, "the weights should have changed by much"
    ways = [("auto", 1, 4), ("auto", 2, 2), ("auto", 8, 4), ("pmap", 2, 2), ("pmap", 8, 4)]
    for parallel, devices, parts in ways:
        state, found = trained(job_on(config, devices, parallel, parts, monkeypatch))
        for name in ("loss", "learning_rate"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
        for name in ("correct", "examples"):
            np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_allclose(found["gradient_norm"], expected["gradient_norm"], rtol=1e-4)
        # A gradient is a sum of some thousand float32 terms near 1e-2, in another order: rounding
        # of about 1e-7, times the rate 0.3 and ten steps of momentum. Weights are near 0.1.
        for there, here in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(here, there, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_adamw_in_parts_has_the_losses_of_the_large_batch(plain_config, monkeypatch):
    _, expected = trained(job_on(plain_config, 1, "auto", 1, monkeypatch))
    _, found = trained(job_on(plain_config, 2, "auto", 4, monkeypatch))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0, atol=1e-5)


def test_no_example_leaves_its_device(config, monkeypatch):
    job = job_on(config, 8, "auto", 4, monkeypatch)
    program = lower_train_step(job, setting_of(job)).compile().as_text()
    sent = re.findall(
        r"= \S+ ((?:all-|collective-|reduce-scatter)[a-z-]*?)(?:-start|-done)?\(", program
    )
    assert set(sent) == {"all-reduce"}


@pytest.fixture
def recipe():
    return Recipe(
        model=ViT(
            patch_size=4, width=16, depth=1, num_heads=2, num_classes=3, head_zero_init=False
        ),
        optimizer=optax.adam(0.1),
        schedule=optax.constant_schedule(0.1),
        augment=AugmentConfig(),
        mean=(0.5,),
        std=(0.25,),
        ema_decay=0.9,
    )


def state_of(recipe):
    start = functools.partial(init_state, image_shape=(8, 8, 1), ema=True)
    return jax.jit(functools.partial(start, recipe.model, recipe.optimizer))(jax.random.key(0))


def one_step(state, batch, recipe):
    return jax.jit(functools.partial(train_step, recipe=recipe))(state, batch)


def batch_of(*mask):
    rng, size = np.random.default_rng(0), len(mask)
    return {
        "image": jnp.asarray(rng.random((size, 8, 8, 1), np.float32)),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        "index": jnp.arange(size, dtype=jnp.int32),
        "place": jnp.arange(size, dtype=jnp.int32),
        "mask": jnp.asarray(mask, jnp.float32),
    }


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("mask", [(1, 1, 1, 1, 1, 0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0)])
def test_parts_with_other_numbers_of_real_examples_weigh_by_their_examples(recipe, mask):
    recipe = dataclasses.replace(recipe, optimizer=optax.sgd(0.1))
    whole, expected = one_step(state_of(recipe), batch_of(*mask), recipe)
    parts = dataclasses.replace(recipe, accumulate_steps=4)
    state, found = one_step(state_of(recipe), batch_of(*mask), parts)
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    for there, here in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)


def test_each_part_draws_its_own_dropout_masks(recipe):
    model = recipe.model.clone(dropout=0.5)
    recipe = dataclasses.replace(recipe, model=model, accumulate_steps=2)
    batch = batch_of(1, 1)
    batch["image"] = batch["image"].at[1].set(batch["image"][0])
    batch["label"] = batch["label"].at[1].set(batch["label"][0])
    _, both = one_step(state_of(recipe), batch, recipe)
    _, first = one_step(state_of(recipe), batch | {"mask": jnp.array([1.0, 0.0])}, recipe)
    assert abs(float(both["loss"]) - float(first["loss"])) > 1e-3


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("pixel", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_leaves_the_weights_as_they_were(recipe, pixel, parts):
    recipe = dataclasses.replace(recipe, skip_not_finite=True, accumulate_steps=parts)
    step = jax.jit(functools.partial(train_step, recipe=recipe))
    sound, bad = batch_of(1, 1, 1, 1), batch_of(1, 1, 1, 1)
    bad["image"] = bad["image"].at[1, 2, 3, 0].set(pixel)
    # After a step, so that moments, counts and average are at something.
    before, _ = step(state_of(recipe), sound)
    after, metrics = step(before, bad)
    assert not np.isfinite(float(metrics["loss"]))
    assert int(after.step) == 2
    assert bits(dataclasses.replace(after, step=before.step)) == bits(before)
    # What follows is what would have followed.
    later, metrics = step(after, sound)
    moved = dataclasses.replace(before, step=before.step + 1)
    assert bits(later) == bits(step(moved, sound)[0])
    assert bits(later.params) != bits(after.params)
    assert np.isfinite(float(metrics["gradient_norm"]))


def test_without_skipping_such_a_batch_spoils_the_weights(recipe):
    bad = batch_of(1, 1)
    bad["image"] = bad["image"].at[0].set(np.nan)
    state, _ = one_step(state_of(recipe), bad, recipe)
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_gradient_without_a_finite_norm_is_enough(recipe, monkeypatch):
    monkeypatch.setattr(optax.tree, "norm", lambda gradients: jnp.float32(np.inf))
    recipe = dataclasses.replace(recipe, skip_not_finite=True)
    before = state_of(recipe)
    after, metrics = one_step(before, batch_of(1, 1), recipe)
    assert np.isfinite(float(metrics["loss"]))
    assert bits(after.params) == bits(before.params)
    assert bits(after.opt_state) == bits(before.opt_state)


def test_the_recipe_takes_both_from_the_config(plain_config):
    data = dataclasses.replace(plain_config.data, mean=(0.5,), std=(0.5,))
    usual = setup.make_recipe(dataclasses.replace(plain_config, data=data), 10, 1)
    assert (usual.accumulate_steps, usual.skip_not_finite) == (1, False)
    config = dataclasses.replace(plain_config, data=data, accumulate_steps=4, on_nan="skip")
    recipe = setup.make_recipe(config, 10, 1)
    assert (recipe.accumulate_steps, recipe.skip_not_finite) == (4, True)
