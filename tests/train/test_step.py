import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import ViT
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig, make_optimizer
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
    augmenting = dataclasses.replace(recipe, augment=AugmentConfig(crop_padding=1, flip="random"))
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
        recipe,
        model=model,
        augment=AugmentConfig(crop_padding=2, flip="random"),
        label_smoothing=0.5,
    )
    batch = make_batch(6, padding=2)
    plain = eval_step(state.params, batch, recipe)
    same = eval_step(state.params, batch, noisy)
    np.testing.assert_array_equal(plain.loss, same.loss)
    logits = recipe.model.apply({"params": state.params}, (batch["image"] / 255 - 0.5) / 0.25)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    np.testing.assert_allclose(plain.loss.sum(), losses[:6].sum(), rtol=1e-6)
    assert int(plain.confusion.sum()) == 6


FREEZE = OptimConfig(
    learning_rate=0.05,
    schedule="constant",
    weight_decay=0.1,
    decay="all",
    clip_norm=0.3,
    ema_decay=0.9,
    freeze=("patch_embed", "encoder/block_0/attn", "pos_embed"),
)


def freezing(recipe, config):
    optimizer = make_optimizer(config, recipe.schedule)
    return dataclasses.replace(
        recipe, optimizer=optimizer, ema_decay=config.ema_decay, freeze=config.freeze
    )


def bits(tree):
    """Bytes of the leaves by their paths; a zero's sign shows."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf.tobytes() for path, leaf in leaves}


def test_frozen_parameters_and_their_average_keep_their_bits(recipe):
    recipe = freezing(recipe, FREEZE)
    state = init_state(recipe.model, recipe.optimizer, jax.random.key(0), (8, 8, 1), ema=True)
    for tree in (state.params, state.ema):
        tree["patch_embed"]["bias"] = -jnp.zeros(16)
    before = bits(state.params)
    # Once as it is written, because the compiler leaves out adding 0, and then compiled.
    state, _ = train_step(state, make_batch(6), recipe)
    step = jax.jit(functools.partial(train_step, recipe=recipe), donate_argnums=0)
    for _ in range(3):
        state, metrics = step(state, make_batch(6))
    after, ema = bits(state.params), bits(state.ema)
    for path, value in before.items():
        frozen = path.startswith(FREEZE.freeze)
        assert (after[path] == value) == frozen, path
        assert (ema[path] == value) == frozen, path
    assert np.isfinite(float(metrics["loss"]))


def test_the_gradient_norm_counts_what_is_trained(recipe, state):
    batch = make_batch(6)
    pixels = (batch["image"] / 255 - 0.5) / 0.25

    def mean_loss(params):
        logits = recipe.model.apply({"params": params}, pixels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    gradient = jax.grad(mean_loss)(state.params)
    probe = freezing(recipe, dataclasses.replace(FREEZE, freeze=("backbone",)))
    state = dataclasses.replace(state, opt_state=probe.optimizer.init(state.params))
    _, metrics = train_step(state, batch, probe)
    expected = optax.tree.norm(gradient["head"])
    np.testing.assert_allclose(metrics["gradient_norm"], expected, rtol=1e-5)
    assert float(expected) < 0.9 * float(optax.tree.norm(gradient))


def test_the_backward_pass_of_what_is_frozen_is_not_computed(recipe):
    def flops(freeze):
        config = dataclasses.replace(FREEZE, freeze=freeze, ema_decay=None)
        frozen = freezing(recipe, config)
        start = functools.partial(init_state, image_shape=(8, 8, 1), ema=False)
        start = functools.partial(start, frozen.model, frozen.optimizer)
        state = jax.eval_shape(start, jax.random.key(0))
        step = jax.jit(functools.partial(train_step, recipe=frozen))
        return step.lower(state, make_batch(6)).compile().cost_analysis()["flops"]

    recipe = dataclasses.replace(recipe, model=recipe.model.clone(depth=2, width=32))
    # Backward costs twice what forward does, half of it to reach the layers below.
    assert flops(("backbone",)) < 0.4 * flops(())
    assert flops(("patch_embed", "pos_embed", "cls_token", "encoder/block_0")) < 0.75 * flops(())
