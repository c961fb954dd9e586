"""Schedules at exact steps; optimisers and clipping against PyTorch's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import ViT
from vit_jax.optim import (
    OptimConfig,
    decay_mask,
    ema_decay,
    ema_update,
    make_optimizer,
    make_schedule,
    muon_labels,
)

try:
    import torch
except ModuleNotFoundError:
    torch = None  # schedules, mask and moving average are tested without it

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch, the reference, is not installed")

PEAK, FINAL = 0.8, 0.08
# Five steps an epoch: 10 of warm-up, then 40.
WARM_UP = {0: 0.0, 1: 0.08, 5: 0.4, 9: 0.72, 10: PEAK}
AFTER = {
    "constant": {20: PEAK, 30: PEAK, 50: PEAK, 60: PEAK},
    "linear": {20: 0.62, 30: 0.44, 49: 0.098, 50: FINAL, 60: FINAL},
    "cosine": {
        20: FINAL + 0.72 * (1 + math.cos(math.pi / 4)) / 2,
        30: 0.44,
        49: FINAL + 0.72 * (1 + math.cos(math.pi * 39 / 40)) / 2,
        50: FINAL,
        60: FINAL,
    },
}


def config_of(**fields):
    return OptimConfig(learning_rate=PEAK, final_learning_rate=FINAL, **fields)


@pytest.mark.parametrize("name", AFTER)
def test_schedule_with_warm_up_at_exact_steps(name):
    schedule = make_schedule(config_of(schedule=name, warmup_epochs=2.0), 50, steps_per_epoch=5)
    expected = WARM_UP | AFTER[name]
    found = {step: float(schedule(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", AFTER)
def test_schedule_without_warm_up_starts_at_the_peak(name):
    schedule = make_schedule(config_of(schedule=name), 40, steps_per_epoch=5)
    expected = {0: PEAK} | {step - 10: value for step, value in AFTER[name].items()}
    found = {step: float(schedule(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def test_warm_up_counts_epochs_in_fractions():
    schedule = make_schedule(config_of(schedule="constant", warmup_epochs=0.8), 50, 5)
    assert [float(schedule(s)) for s in range(6)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])


@pytest.mark.parametrize("name", AFTER)
def test_training_shorter_than_its_warm_up_only_rises(name):
    schedule = make_schedule(config_of(schedule=name, warmup_epochs=2.0), 4, steps_per_epoch=5)
    found = [float(schedule(step)) for step in range(5)]
    assert found == pytest.approx([0.0, 0.08, 0.16, 0.24, 0.32], abs=1e-6)


def test_final_learning_rate_is_zero_unless_set():
    schedule = make_schedule(OptimConfig(learning_rate=1.0), 10, 5)
    assert float(schedule(10)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", AFTER)
def test_learning_rate_zero_stays_zero(name):
    schedule = make_schedule(OptimConfig(learning_rate=0.0, schedule=name), 10, 5)
    assert [float(schedule(step)) for step in (0, 5, 10)] == [0.0, 0.0, 0.0]


def random_tree(rng, scale=1.0):
    shapes = {"a": {"kernel": (5, 7), "bias": (7,)}, "b": {"scale": (3,), "kernel": (2, 3, 4)}}
    return jax.tree.map(
        lambda shape: (scale * rng.standard_normal(shape)).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def torch_optimizer(config, groups):
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=(config.b1, config.b2), eps=config.eps)
    return torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=config.nesterov)


def five_steps_of_both(config):
    """Parameters after five steps of ours and of PyTorch's optimiser, on the same gradients."""
    rng = np.random.default_rng(0)
    params = random_tree(rng)
    gradients = [random_tree(rng, scale=2.0) for _ in range(5)]
    schedule = make_schedule(config, 8, steps_per_epoch=2)

    optimizer = make_optimizer(config, schedule)
    ours, state = params, jax.jit(optimizer.init)(params)
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, ours)
        ours = jax.tree.map(np.add, ours, updates)

    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(x)), params)
    leaves = jax.tree_util.tree_leaves_with_path(theirs)
    groups = [
        {
            "params": [leaf],
            "weight_decay": config.weight_decay
            if config.decay == "all" or path[-1].key == "kernel"
            else 0.0,
        }
        for path, leaf in leaves
    ]
    their_optimizer = torch_optimizer(config, groups)
    for step, gradient in enumerate(gradients):
        for (_, leaf), g in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(g)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([leaf for _, leaf in leaves], config.clip_norm)
        for group in their_optimizer.param_groups:
            group["lr"] = float(schedule(step))
        their_optimizer.step()
    return params, ours, jax.tree.map(lambda leaf: leaf.detach().numpy(), theirs)


@needs_torch
@pytest.mark.parametrize("decay", ["all", "kernels"])
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "adamw", "learning_rate": 0.02},
        {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1},
        {"name": "adamw", "weight_decay": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-4},
        {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1, "warmup_epochs": 1.5},
        {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1, "clip_norm": 0.5},
        {"name": "sgd", "learning_rate": 0.02},
        {"name": "sgd", "learning_rate": 0.02, "momentum": 0.0, "weight_decay": 0.01},
        {"name": "sgd", "learning_rate": 0.02, "weight_decay": 0.01},
        {"name": "sgd", "learning_rate": 0.02, "weight_decay": 0.01, "nesterov": True},
        {"name": "sgd", "learning_rate": 0.02, "weight_decay": 0.01, "clip_norm": 0.5},
    ],
    ids=lambda fields: "-".join(f"{k}={v}" for k, v in fields.items()),
)
def test_five_steps_equal_torch(fields, decay):
    start, ours, theirs = five_steps_of_both(OptimConfig(decay=decay, **fields))
    for before, a, b in zip(*map(jax.tree.leaves, (start, ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        assert np.abs(a - before).max() > 1e-3  # they moved at all


@needs_torch
@pytest.mark.parametrize("norm", [0.3, 100.0])
def test_clipping_equals_torch_and_leaves_short_gradients_alone(norm):
    gradient = random_tree(np.random.default_rng(1))
    config = OptimConfig(
        name="sgd", learning_rate=1.0, schedule="constant", momentum=0.0, clip_norm=norm
    )
    optimizer = make_optimizer(config, make_schedule(config, 1, 1))
    params = jax.tree.map(np.zeros_like, gradient)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)

    leaves = [torch.zeros(g.shape, requires_grad=True) for g in jax.tree.leaves(gradient)]
    for leaf, g in zip(leaves, jax.tree.leaves(gradient), strict=True):
        leaf.grad = torch.tensor(g)
    before = float(torch.nn.utils.clip_grad_norm_(leaves, norm))
    assert 1 < before < 100  # one of the two norms clips, the other does not
    for update, leaf in zip(jax.tree.leaves(updates), leaves, strict=True):
        np.testing.assert_allclose(-update, leaf.grad, rtol=1e-5, atol=1e-7)
    assert float(optax.tree.norm(updates)) == pytest.approx(min(norm, before), rel=1e-5)


DECAYED = {
    *(f"encoder/block_0/{part}/kernel" for part in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")),
    *(f"map_pool/{part}/kernel" for part in ("q", "kv", "proj", "mlp/fc1", "mlp/fc2")),
    "patch_embed/kernel",
    "representation/kernel",
    "head/kernel",
}
NOT_DECAYED = {
    "cls_token",
    "register_tokens",
    "pos_embed",
    "map_pool/probe",
    *(f"encoder/block_0/layer_scale{number}/gamma" for number in (1, 2)),
    *(
        f"{norm}/{part}"
        for norm in (*(f"encoder/block_0/norm{n}" for n in (1, 2, 3)), "map_pool/norm", "norm")
        for part in ("scale", "bias")
    ),
    *(name.replace("kernel", "bias") for name in DECAYED),
}


@pytest.fixture(scope="module")
def vit_params():
    """Parameters, all 1, of a ViT that has every kind of parameter there is."""
    model = ViT(
        patch_size=4,
        width=16,
        depth=1,
        num_heads=2,
        num_classes=10,
        pool="map",
        class_token=True,
        num_registers=2,
        representation=8,
        layer_scale=1e-4,
        block_output_norm=True,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)


def names_where(tree):
    """Names of the leaves that are true."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf
    }


def test_decay_mask_takes_kernels_only(vit_params):
    mask = decay_mask(vit_params)
    assert names_where(mask) == DECAYED
    assert names_where(jax.tree.map(lambda decayed: not decayed, mask)) == NOT_DECAYED


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize(
    ("decay", "expected"), [("kernels", DECAYED), ("all", DECAYED | NOT_DECAYED)]
)
def test_zero_gradients_change_what_is_decayed_and_nothing_else(vit_params, name, decay, expected):
    config = OptimConfig(
        name=name, learning_rate=0.1, schedule="constant", weight_decay=0.5, decay=decay
    )
    optimizer = make_optimizer(config, make_schedule(config, 1, 1))
    zeros = jax.tree.map(np.zeros_like, vit_params)
    state = jax.jit(optimizer.init)(vit_params)
    updates, _ = jax.device_get(jax.jit(optimizer.update)(zeros, state, vit_params))
    assert names_where(jax.tree.map(np.any, updates)) == expected
    # All weights are 1, and the first step has no momentum yet: the update is -rate * decay.
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(update, -0.1 * 0.5 * np.any(update), rtol=1e-6)


def test_ema_follows_its_recurrence():
    rng = np.random.default_rng(0)
    params = [{"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)} for _ in range(120)]
    ema = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params[0])
    expected = dict(params[0])
    update = jax.jit(ema_update, static_argnums=2)
    for step, new in enumerate(params):
        ema = update(ema, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), new), 0.9, step)
        keep = min(0.9, (1 + step) / (10 + step))  # 0.1 at first; 0.9 from step 80 on
        expected = {k: keep * expected[k] + (1 - keep) * new[k] for k in expected}
        for name, value in expected.items():
            np.testing.assert_allclose(ema[name], value, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_matrices_of_the_blocks(vit_params):
    labels = muon_labels(vit_params)
    by_muon = names_where(jax.tree.map(lambda label: label == "muon", labels))
    assert by_muon == {name for name in DECAYED if name.startswith("encoder/")}


def test_beside_muon_everything_else_is_adamws(vit_params):
    """To the bit; and the blocks' matrices move by Muon's step and the same decay."""
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), vit_params)
    common = {"learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.5, "b2": 0.9}
    updates = {}
    for name in ("muon", "adamw"):
        config = OptimConfig(name=name, momentum=0.95, **common)
        optimizer = make_optimizer(config, make_schedule(config, 1, 1))
        state = jax.jit(optimizer.init)(vit_params)
        updates[name], _ = jax.device_get(jax.jit(optimizer.update)(gradients, state, vit_params))
    labels = jax.tree.leaves(muon_labels(vit_params))
    assert labels.count("muon") == 4
    for label, muon, adamw in zip(labels, *map(jax.tree.leaves, updates.values()), strict=True):
        if label == "adamw":
            np.testing.assert_array_equal(muon, adamw)
            continue
        moved = muon + 0.1 * 0.5  # all weights are 1
        assert np.sqrt((moved**2).mean()) == pytest.approx(0.1 * 0.2, rel=0.25)
        assert np.linalg.norm(moved, 2) < 0.1 * 0.2 * max(moved.shape) ** 0.5 * 1.3 * 3**0.5


def test_average_reaches_back_by_epochs_or_by_a_decay():
    assert ema_decay(OptimConfig(), 10) is None
    assert ema_decay(OptimConfig(ema_decay=0.9), 10) == 0.9
    assert ema_decay(OptimConfig(ema_epochs=2.5), 40) == pytest.approx(0.99)
    assert ema_decay(OptimConfig(ema_epochs=0.01), 10) == 0  # less than a step: no memory
    with pytest.raises(ValueError, match=r"ema_decay=0\.9 and optim\.ema_epochs=1"):
        ema_decay(OptimConfig(ema_decay=0.9, ema_epochs=1.0), 10)
