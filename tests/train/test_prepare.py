"""What a training step makes of a batch before the model sees it; and what cannot be augmented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import ViT
from vit_jax.config import Config, ConfigError
from vit_jax.data.source import ArraySource, DataConfig
from vit_jax.ops.augment import AugmentConfig
from vit_jax.optim import OptimConfig, make_optimizer, make_schedule
from vit_jax.train.fill_in import fill_in
from vit_jax.train.state import TrainState
from vit_jax.train.step import Recipe, prepare, train_step

OPTIM = OptimConfig()


def make_recipe(augment, **fields):
    schedule = make_schedule(OPTIM, 10, 5)
    return Recipe(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2, num_classes=3),
        optimizer=make_optimizer(OPTIM, schedule),
        schedule=schedule,
        augment=augment,
        mean=(0.5, 0.5, 0.5),
        **{"std": (0.25, 0.25, 0.25), "steps_per_epoch": 5, "total_steps": 10} | fields,
    )


def make_batch(number=8, padding=0):
    rng = np.random.default_rng(0)
    mask = np.ones(number, np.float32)
    mask[number - padding :] = 0
    batch = {
        "image": rng.integers(0, 256, (number, 8, 8, 3), dtype=np.uint8),
        "label": (np.arange(number) % 3).astype(np.int32),
        "index": rng.permutation(100)[:number].astype(np.int32),
        "place": np.arange(number, dtype=np.int32),
        "mask": mask,
    }
    return jax.tree.map(jnp.asarray, batch)


def test_without_augmentation_the_images_are_normalised_and_nothing_else():
    batch = make_batch()
    mixed = prepare(batch, make_recipe(AugmentConfig()), jnp.int32(3))
    expected = (np.asarray(batch["image"]) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(mixed.images, expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(mixed.weight) == 1).all()


@pytest.mark.parametrize(("off", "mixes"), [(0, 10), (1, 5), (0.4, 8), (2, 0), (9, 0)])
def test_mixing_ends_before_the_last_epochs(off, mixes):
    recipe = make_recipe(AugmentConfig(mixup=1.0, mix_off_epochs=off))
    weights = [np.asarray(prepare(make_batch(), recipe, jnp.int32(n)).weight) for n in range(10)]
    assert [bool((w < 1).any()) for w in weights] == [True] * mixes + [False] * (10 - mixes)


def test_alternating_flips_follow_the_epoch_and_the_example_not_its_place():
    recipe = make_recipe(AugmentConfig(flip="alternating"), std=(1.0, 1.0, 1.0))
    batch = make_batch(16)
    images = np.asarray(batch["image"]) / 255 - 0.5
    mirrored = []
    for step in (0, 4, 5, 9, 10):
        out = np.asarray(prepare(batch, recipe, jnp.int32(step)).images)
        mirrored.append(np.isclose(out, images[:, :, ::-1], atol=1e-5).all(axis=(1, 2, 3)))
        kept = np.isclose(out, images, atol=1e-5).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(kept, ~mirrored[-1])
    first = mirrored[0]
    assert 0 < first.sum() < 16
    for found, expected in zip(mirrored, (first, first, ~first, ~first, first), strict=True):
        np.testing.assert_array_equal(found, expected)
    order = np.random.default_rng(1).permutation(16)
    moved = {name: value[order] for name, value in batch.items() if name != "place"}
    out = np.asarray(prepare(moved | {"place": batch["place"]}, recipe, jnp.int32(0)).images)
    found = np.isclose(out, images[order][:, :, ::-1], atol=1e-5).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(found, first[order])


def test_the_loss_of_a_mixed_batch_is_that_against_the_mixed_labels():
    recipe = make_recipe(AugmentConfig(mixup=1.0, cutmix=1.0), label_smoothing=0.1)
    batch = make_batch(padding=1)
    model = recipe.model
    params = model.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))["params"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(2), (16, 3))
    state = TrainState(jnp.int32(2), params, recipe.optimizer.init(params), None)
    _, metrics = train_step(state, batch, recipe)
    mixed = prepare(batch, recipe, state.step)
    logits = model.apply({"params": params}, mixed.images, train=True)
    weight = np.asarray(mixed.weight)[:, None]
    assert (weight < 1).sum() >= 5
    target = weight * np.eye(3)[mixed.labels] + (1 - weight) * np.eye(3)[mixed.partner_labels]
    target = 0.9 * target + 0.1 / 3
    losses = -(target * np.asarray(jax.nn.log_softmax(logits))).sum(axis=1)
    assert float(metrics["loss"]) == pytest.approx(losses[:7].mean(), rel=1e-5)
    # The example beside the padding is left as it is.
    assert weight[6] == 1
    right = np.asarray(logits).argmax(axis=1) == target.argmax(axis=1)
    assert float(metrics["correct"]) == right[:7].sum()


def source_of(shape, dtype=np.uint8):
    return ArraySource(np.ones((4, *shape), dtype), np.arange(4, dtype=np.int32), tuple("abcd"), "")


@pytest.mark.parametrize(
    ("augment", "source", "message"),
    [
        (
            AugmentConfig(policy="randaugment"),
            source_of((8, 8, 5)),
            r"augment\.policy='randaugment', .* greyscale or RGB, .* 5 channels",
        ),
        (
            AugmentConfig(colour_jitter=0.3),
            source_of((8, 8, 1), np.float32),
            r"augment\.colour_jitter=0\.3: these images are floats, .* uint8 or uint16",
        ),
        (
            AugmentConfig(cutmix=1.0),
            source_of((8, 8, 3)),
            r"be even: batch_size=6 on 2 devices gives 3",
        ),
    ],
)
def test_what_cannot_be_augmented_is_refused_before_the_first_step(augment, source, message):
    statistics = (0.5,) * source.image_shape[2]
    data = DataConfig(mean=statistics, std=statistics)
    config = Config(data=data, augment=augment, batch_size=6, epochs=1)
    with pytest.raises(ConfigError, match=message):
        fill_in(config, source, jax.devices()[:2], None)
