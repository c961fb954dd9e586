import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import ViT
from vit_jax.ops.augment import AugmentConfig
from vit_jax.train.state import init_state
from vit_jax.train.step import Recipe, eval_step, stream_key, train_step


@pytest.fixture
def recipe():
    return Recipe(
        model=ViT(
            patch_size=4, width=16, depth=1, num_heads=2, num_classes=3, head_zero_init=False
        ),
        optimizer=optax.sgd(0.1),
        schedule=optax.constant_schedule(0.1),
        augment=AugmentConfig(),
        mean=(0.5,),
        std=(0.25,),
    )


@pytest.fixture
def state(recipe):
    return init_state(recipe.model, recipe.optimizer, jax.random.key(0), (8, 8, 1), ema=True)


def make_batch(size, padding=0):
    rng = np.random.default_rng(size)
    batch = {
        "image": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 3, size).astype(np.int32),
        "place": np.arange(size, dtype=np.int32),
        "mask": np.ones(size, np.float32),
    }
    if padding:
        # What stands in the padding must not matter: other pixels, other labels.
        batch = {k: np.concatenate([v, v[:padding][::-1]]) for k, v in batch.items()}
        batch["image"][size:] = 255 - batch["image"][size:]
        batch["place"] = np.arange(size + padding, dtype=np.int32)
        batch["mask"][size:] = 0
    return jax.tree.map(jnp.asarray, batch)


def test_one_step_is_gradient_descent_on_the_mean_cross_entropy(recipe, state):
    batch = make_batch(6)
    pixels = (batch["image"] / 255 - 0.5) / 0.25

    def mean_loss(params):
        logits = recipe.model.apply({"params": params}, pixels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    new, metrics = train_step(state, batch, recipe)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, expected)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-5)
    assert int(new.step) == 1
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)


def test_padding_changes_nothing(recipe, state):
    plain, plain_metrics = train_step(state, make_batch(6), recipe)
    padded, padded_metrics = train_step(state, make_batch(6, padding=2), recipe)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain.params, padded.params
    )
    for name in ("loss", "correct", "examples", "gradient_norm"):
        np.testing.assert_allclose(padded_metrics[name], plain_metrics[name], rtol=1e-5)
    assert float(padded_metrics["examples"]) == 6


def test_label_smoothing_changes_the_objective(recipe, state):
    smooth = dataclasses.replace(recipe, label_smoothing=0.3)
    _, metrics = train_step(state, make_batch(6), recipe)
    _, smoothed = train_step(state, make_batch(6), smooth)
    assert float(smoothed["loss"]) != pytest.approx(float(metrics["loss"]), rel=1e-3)


def test_moving_average_follows_the_weights(recipe, state):
    averaging = dataclasses.replace(recipe, ema_decay=0.99)
    new, _ = train_step(state, make_batch(6), averaging)
    # At step 0 the decay is (1 + 0) / (10 + 0), far below 0.99.
    expected = jax.tree.map(lambda e, p: 0.1 * e + 0.9 * p, state.ema, new.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema, expected)


def test_randomness_depends_on_seed_stream_and_step_alone(recipe, state):
    # Of 3 x 3 crops and 2 flips per image; six images are all but never treated alike twice.
    augmenting = dataclasses.replace(recipe, augment=AugmentConfig(crop_padding=1, flip=True))
    batch = make_batch(6)
    first = train_step(state, batch, augmenting)[1]["loss"]
    again = train_step(state, batch, augmenting)[1]["loss"]
    later = dataclasses.replace(state, step=state.step + 1)
    other_step = train_step(later, batch, augmenting)[1]["loss"]
    other_seed = train_step(state, batch, dataclasses.replace(augmenting, seed=1))[1]["loss"]
    assert first == again
    assert len({float(first), float(other_step), float(other_seed)}) == 3
    keys = [stream_key(s, n, t) for s in (0, 1) for n in (0, 1) for t in (0, 1)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 8


def test_evaluation_uses_no_randomness_and_no_smoothing(recipe, state):
    model = dataclasses.replace(recipe.model, dropout=0.5, drop_path=0.5)
    noisy = dataclasses.replace(
        recipe, model=model, augment=AugmentConfig(crop_padding=2, flip=True), label_smoothing=0.5
    )
    batch = make_batch(6, padding=2)
    plain = eval_step(state.params, batch, recipe)
    same = eval_step(state.params, batch, noisy)
    np.testing.assert_array_equal(plain.loss, same.loss)
    logits = recipe.model.apply({"params": state.params}, (batch["image"] / 255 - 0.5) / 0.25)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    np.testing.assert_allclose(plain.loss, losses[:6].sum(), rtol=1e-6)
    assert int(plain.confusion.sum()) == 6
