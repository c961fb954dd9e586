"""What fine-tuning does to the optimiser: frozen parameters, layer-wise rates, the head first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import ViT
from vit_jax.optim import (
    OptimConfig,
    decay_mask,
    freeze_mask,
    layer_factors,
    make_optimizer,
    make_schedule,
    scale_by_layer,
)
from vit_jax.runs.checkpoints import Checkpoints


@functools.cache
def shapes(depth=12):
    """Shapes of the parameters of a ViT that has every part there is; twelve blocks have a 10th."""
    model = ViT(
        patch_size=4,
        width=8,
        depth=depth,
        num_heads=2,
        num_classes=3,
        pool="map",
        class_token=True,
        num_registers=2,
        representation=6,
    )
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


def random_params(seed, scale=1.0):
    """Those of three blocks."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (scale * rng.standard_normal(x.shape)).astype(np.float32), shapes(depth=3)
    )


def flat(tree):
    """Leaves by their paths, as numpy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def begins_with(path, *names):
    return any(f"{path}/".startswith(f"{name}/") for name in names)


def constant(**fields):
    return OptimConfig(**{"learning_rate": 0.02, "schedule": "constant"} | fields)


def run(config, params, gradients, steps_per_epoch=None):
    """The parameters after each step, and the last state of the optimiser."""
    schedule = make_schedule(config, len(gradients), 1)
    optimizer = make_optimizer(config, schedule, steps_per_epoch)
    state, course = jax.jit(optimizer.init)(params), []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.array, params)
    for gradient in gradients:
        params, state = update(params, state, gradient)
        course.append(flat(params))
    return course, state


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ((), ""),
        (("patch_embed",), "patch_embed"),
        (("encoder/block_1",), "encoder/block_1"),  # and neither block 10 nor block 11
        (("cls_token", "encoder/block_10/mlp"), "cls_token encoder/block_10/mlp"),
        (("encoder", "head/bias"), "encoder head/bias"),
        (
            ("backbone",),
            "patch_embed cls_token register_tokens pos_embed encoder norm map_pool representation",
        ),
    ],
    ids=["nothing", "a part", "a block", "two", "a leaf", "backbone"],
)
def test_names_freeze_whole_components(freeze, frozen):
    mask = flat(freeze_mask(shapes(), freeze))
    assert {path for path, is_frozen in mask.items() if is_frozen} == {
        path for path in mask if begins_with(path, *frozen.split())
    }


@pytest.mark.parametrize("name", ["encoder/block", "block_0", "encoder/block_12", "kernel", ""])
def test_a_name_that_matches_nothing_is_answered_with_what_there_is(name):
    optimizer = make_optimizer(constant(freeze=("norm", name)), optax.constant_schedule(0.1))
    with pytest.raises(ValueError, match=f"no parameter's path begins with {name!r}") as error:
        optimizer.init(shapes())
    for part in ("backbone", "cls_token", "encoder", "encoder/block_11", "head", "patch_embed"):
        assert part in str(error.value).rpartition("there are ")[2].split(", ")


def test_near_names_are_offered():
    with pytest.raises(ValueError, match="perhaps pos_embed"):
        freeze_mask(shapes(), ("pos_embedding",))


def test_something_has_to_be_trained():
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freeze_mask(shapes(), ("head/bias", "backbone", "head/kernel"))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_parameters_stay_and_the_others_move_as_if_alone(name):
    """The rest is updated, clipped and decayed as a tree that never held the frozen ones."""
    fields = {"name": name, "weight_decay": 0.1, "decay": "all", "clip_norm": 0.5}
    frozen = ("patch_embed", "encoder/block_1", "head/bias")
    params = random_params(0)
    gradients = [random_params(seed, scale=2.0) for seed in range(1, 5)]
    course, state = run(constant(**fields, freeze=frozen), params, gradients)

    def alone(tree):
        return {path: x for path, x in flat(tree).items() if not begins_with(path, *frozen)}

    expected, expected_state = run(constant(**fields), alone(params), [alone(g) for g in gradients])
    for path, before in flat(params).items():
        if begins_with(path, *frozen):
            assert course[-1][path].tobytes() == before.tobytes()
        else:
            np.testing.assert_allclose(course[-1][path], expected[-1][path], atol=1e-6)
            assert np.abs(course[-1][path] - before).max() > 1e-3
    # Moments and counts of what is trained, and nothing more.
    sizes = [sorted(x.size for x in jax.tree.leaves(tree)) for tree in (state, expected_state)]
    assert sizes[0] == sizes[1]


FACTORS = {  # 0.5 to the number of layers above: 12 blocks make 14 layers
    **dict.fromkeys(("patch_embed", "cls_token", "register_tokens", "pos_embed"), 0.5**13),
    **{f"encoder/block_{number}": 0.5 ** (12 - number) for number in range(12)},
    **dict.fromkeys(("norm", "map_pool", "representation", "head"), 1.0),
}


def test_layer_factors_halve_from_layer_to_layer():
    found = flat(layer_factors(shapes(), 0.5))
    assert found == {
        path: factor
        for path in flat(shapes())
        for part, factor in FACTORS.items()
        if begins_with(path, part)
    }


def test_a_parameter_of_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="the layer of 'stem/kernel' is not known"):
        scale_by_layer(0.5).update({"stem": {"kernel": jnp.ones(2)}}, optax.EmptyState())


def test_one_step_of_gradient_descent_is_scaled_by_layer():
    config = constant(name="sgd", momentum=0.0, layer_decay=0.5)
    params, gradient = random_params(0), random_params(1)
    (after,), _ = run(config, params, [gradient])
    factors = flat(layer_factors(params, 0.5))
    for path, g in flat(gradient).items():
        np.testing.assert_allclose(
            after[path], flat(params)[path] - 0.02 * factors[path] * g, rtol=1e-6, atol=1e-6
        )


def test_frozen_blocks_count_as_layers():
    config = constant(name="sgd", momentum=0.0, layer_decay=0.5, freeze=("encoder/block_2",))
    params, gradient = random_params(0), random_params(1)
    (after,), _ = run(config, params, [gradient])
    for path, factor in (("encoder/block_1/norm1/bias", 0.25), ("encoder/block_2/norm1/bias", 0)):
        expected = flat(params)[path] - 0.02 * factor * flat(gradient)[path]
        np.testing.assert_allclose(after[path], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("decay", ["kernels", "all"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_layer_decay_equals_torch_parameter_groups(name, clip_norm, decay):
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    fields = {"name": name, "clip_norm": clip_norm, "decay": decay, "weight_decay": 0.1}
    # In float32, 1 - 0.999 ** step loses four digits, which PyTorch's float64 keeps; 0.95 does not.
    config = OptimConfig(learning_rate=0.05, warmup_epochs=2.0, b2=0.95, layer_decay=0.75, **fields)
    params = random_params(0)
    gradients = [random_params(seed, scale=2.0) for seed in range(1, 6)]
    course, _ = run(config, params, gradients)

    leaves = {path: torch.nn.Parameter(torch.tensor(x)) for path, x in flat(params).items()}
    factor = flat(layer_factors(params, 0.75))
    groups = [
        {
            "params": [leaf],
            "factor": factor[path],
            "weight_decay": 0.1 if decay == "all" or path.endswith("kernel") else 0.0,
        }
        for path, leaf in leaves.items()
    ]
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(config.b1, config.b2), eps=config.eps)
    else:
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum)
    schedule = make_schedule(config, len(gradients), 1)
    for step, gradient in enumerate(gradients):
        for path, g in flat(gradient).items():
            leaves[path].grad = torch.tensor(g)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(leaves.values(), clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step)) * group["factor"]
        optimizer.step()
    for path, leaf in leaves.items():
        np.testing.assert_allclose(course[-1][path], leaf.detach().numpy(), rtol=0, atol=1e-6)
        assert not np.array_equal(course[-1][path], flat(params)[path])


def adamw(config, x, gradients, moved):
    """AdamW in plain NumPy; `moved` says of each step whether its update is applied."""
    m, v, course = 0.0, 0.0, []
    for t, (g, is_moved) in enumerate(zip(gradients, moved, strict=True), start=1):
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        corrected = (m / (1 - config.b1**t)) / (np.sqrt(v / (1 - config.b2**t)) + config.eps)
        x = x - is_moved * config.learning_rate * (corrected + config.weight_decay * x)
        course.append(x)
    return course


@pytest.mark.parametrize(("epochs", "per_epoch", "steps"), [(1.5, 2, 3), (0.1, 3, 0), (9.0, 1, 9)])
def test_the_head_alone_moves_at_first(epochs, per_epoch, steps):
    config = constant(weight_decay=0.1, decay="all", head_only_epochs=epochs)
    params = random_params(0)
    gradients = [random_params(seed) for seed in range(1, 7)]
    course, _ = run(config, params, gradients, per_epoch)
    flat_gradients = [flat(gradient) for gradient in gradients]
    for path, before in flat(params).items():
        moved = [begins_with(path, "head") or step >= steps for step in range(6)]
        expected = adamw(config, before, [g[path] for g in flat_gradients], moved)
        for step in range(6):
            np.testing.assert_allclose(course[step][path], expected[step], atol=2e-6)
            if not any(moved[: step + 1]):
                np.testing.assert_array_equal(course[step][path], before)


def test_the_backbone_starts_without_a_jump():
    config = constant(learning_rate=1.0, head_only_epochs=5.0)
    gradients = [jax.tree.map(np.ones_like, random_params(0))] * 6
    course, _ = run(config, random_params(0), gradients, 1)
    step = course[5]["pos_embed"] - course[4]["pos_embed"]
    # With a constant gradient every step of Adam is the learning rate; from zero moments: 0.52.
    np.testing.assert_allclose(step, -1.0, rtol=1e-4)


def test_head_only_epochs_need_the_length_of_an_epoch_and_a_head_that_moves():
    schedule = optax.constant_schedule(0.1)
    with pytest.raises(ValueError, match=r"head_only_epochs=2\.0 needs steps_per_epoch"):
        make_optimizer(constant(head_only_epochs=2.0), schedule)
    with pytest.raises(ValueError, match=r"optim\.freeze=\('head',\) keeps it as it is"):
        make_optimizer(constant(head_only_epochs=2.0, freeze=("head",)), schedule, 10)


def structure(steps_per_epoch=None, **fields):
    optimizer = make_optimizer(constant(**fields), optax.constant_schedule(0.1), steps_per_epoch)
    return jax.tree.structure(jax.eval_shape(optimizer.init, shapes()))


def test_without_these_fields_the_state_is_as_it_was():
    schedule = optax.constant_schedule(0.1)
    plain = optax.chain(optax.identity(), optax.adamw(schedule, mask=decay_mask))
    expected = jax.tree.structure(jax.eval_shape(plain.init, shapes()))
    assert structure() == structure(steps_per_epoch=7) == expected


def test_the_structure_of_the_state_does_not_depend_on_the_length_of_an_epoch():
    # A checkpoint is read without the data that says how many steps make an epoch.
    assert structure(1, head_only_epochs=0.1) == structure(500, head_only_epochs=0.1)


def test_the_state_survives_a_checkpoint(tmp_path):
    fields = {"freeze": ("encoder/block_1",), "layer_decay": 0.75, "head_only_epochs": 1.0}
    _, state = run(constant(**fields), random_params(0), [random_params(1)] * 3, steps_per_epoch=2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {}, score=None)
    checkpoints.wait()
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    restored, _ = checkpoints.restore(3, state, sharding)
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize("freeze", [("encoder/block_1",), ("backbone",)])
def test_muon_leaves_what_is_frozen_alone(freeze):
    config = constant(name="muon", momentum=0.95, weight_decay=0.1, freeze=freeze)
    params = random_params(0)
    course, _ = run(config, params, [random_params(seed) for seed in (1, 2)])
    frozen = flat(freeze_mask(params, freeze))
    for path, before in flat(params).items():
        assert (course[-1][path] == before).all() == frozen[path], path


def test_muon_slows_lower_layers_too():
    gradients = [random_params(1)]
    slow, usual = (
        run(constant(name="muon", layer_decay=decay), random_params(0), gradients)[0][-1]
        for decay in (0.5, None)
    )
    before = flat(random_params(0))
    for path, after in usual.items():
        if path.startswith("encoder/") and path.endswith("/kernel"):
            factor = 0.5 ** (3 - int(path.split("/")[1].removeprefix("block_")))
            moved = factor * (after - before[path])
            np.testing.assert_allclose(slow[path] - before[path], moved, atol=1e-6)
