import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from vit_jax import Block, MapPool, PatchEmbed, ViT
from vit_jax.models.layers import LayerNorm
from vit_jax.ops.positions import sincos2d

# Nothing square, nothing a power of two: 5x7 patches of 2x3 pixels, three heads of 12 channels.
SMALL = ViT(
    patch_size=(2, 3),
    width=36,
    depth=1,
    num_heads=3,
    mlp_dim=50,
    num_classes=7,
    head_zero_init=False,
)
IMAGE = (10, 21, 3)
PATCHES = 5 * 7


# Where the blocks do not matter, as they take the longest to compile.
BLOCKLESS = dataclasses.replace(SMALL, depth=0)


def small(**fields):
    return dataclasses.replace(SMALL, **fields)


def blockless(**fields):
    return dataclasses.replace(BLOCKLESS, **fields)


@pytest.mark.parametrize(("channels", "pool"), [(1, "cls"), (5, "gap")])
def test_equals_a_vit_of_torch_layers_and_so_do_the_gradients(
    channels, pool, torch, plain_vit, load, to_torch, torch_names, random_variables, normal, jit
):
    model = small(depth=2, pool=pool)
    images = normal((2, 10, 21, channels))
    variables = random_variables(model, images)
    reference = plain_vit(
        channels=channels,
        patch_size=(2, 3),
        patches=PATCHES,
        width=36,
        depth=2,
        heads=3,
        hidden=50,
        classes=7,
        token=pool == "cls",
    )
    load(reference, torch_names.vit(variables["params"]))
    expected = reference(to_torch(images))
    assert expected.shape == (2, 7)
    weights = normal((2, 7), seed=2)
    (expected * to_torch(weights)).sum().backward()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits = model.apply({"params": params}, images)
        return (logits * weights).sum(), logits

    (_, logits), gradient = jit(loss)(variables["params"])
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-5)
    gradient = torch_names.vit(gradient)
    for name, parameter in reference.named_parameters():
        np.testing.assert_allclose(
            gradient[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize(("num_heads", "head_dim", "channels"), [(3, 8, 1), (4, 16, 5)])
def test_equals_the_vit_of_a_tutorial_and_its_attention(
    num_heads,
    head_dim,
    channels,
    tutorial_vit,
    load,
    to_torch,
    torch_names,
    random_variables,
    normal,
    apply,
):
    model = small(
        depth=2,
        num_heads=num_heads,
        head_dim=head_dim,
        qkv_bias=False,
        block_output_norm=True,
        mlp_output_activation=True,
        final_norm="none",
        norm_eps=1e-5,
    )
    images = normal((2, 10, 21, channels))
    variables = random_variables(model, images)
    reference = tutorial_vit(
        channels=channels,
        patch_size=(2, 3),
        patches=PATCHES,
        width=36,
        depth=2,
        heads=num_heads,
        head_dim=head_dim,
        hidden=50,
        classes=7,
    )
    load(reference, torch_names.tutorial(variables["params"], num_heads))
    expected, attention = reference(to_torch(images))
    logits, seen = apply(model, variables, images, mutable="intermediates")
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-5)
    assert list(seen["intermediates"]["encoder"]) == ["block_0", "block_1"]
    for i, weights in enumerate(attention):
        (ours,) = seen["intermediates"]["encoder"][f"block_{i}"]["attn"]["attention"]
        assert ours.shape == (2, num_heads, 1 + PATCHES, 1 + PATCHES)
        np.testing.assert_allclose(ours, weights.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(ours.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "class_token", "has_class_token", "num_registers"),
    [
        ("cls", None, True, 0),
        ("cls", True, True, 2),
        ("gap", None, False, 0),
        ("gap", None, False, 2),
        ("gap", True, True, 0),
        ("gap", True, True, 2),
        ("tokens-mean", None, True, 0),
        ("tokens-mean", True, True, 2),
        ("tokens-mean", False, False, 2),
        ("map", None, False, 2),
        ("map", True, True, 0),
        ("none", None, False, 0),
        ("none", False, False, 2),
        ("none", True, True, 2),
    ],
)
def test_pools(pool, class_token, has_class_token, num_registers, random_variables, normal, apply):
    model = blockless(pool=pool, class_token=class_token, num_registers=num_registers)
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    params = variables["params"]
    prefix = has_class_token + num_registers
    assert model.has_class_token == has_class_token
    assert model.num_prefix_tokens == prefix
    assert ("cls_token" in params) == has_class_token
    assert ("register_tokens" in params) == bool(num_registers)
    # The class token has a position, registers have none.
    assert params["pos_embed"].shape == (1, has_class_token + PATCHES, 36)

    out = apply(model, variables, images, method="features")
    assert list(out) == ["logits", "pooled", "tokens"]  # jit sorts the keys
    tokens = out["tokens"]
    assert tokens.shape == (2, prefix + PATCHES, 36)
    expected = {
        "cls": tokens[:, 0],
        "gap": tokens[:, prefix:].mean(axis=1),
        "tokens-mean": tokens.mean(axis=1),
        "none": tokens,
    }
    if pool == "map":  # its own values are tested with MapPool
        assert set(params["map_pool"]) == {"probe", "q", "kv", "proj", "norm", "mlp"}
        assert out["pooled"].shape == (2, 36)
    else:
        assert "map_pool" not in params
        np.testing.assert_allclose(out["pooled"], expected[pool], atol=1e-6)
    logits = out["pooled"] @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)


def test_map_pool_reads_all_tokens(random_variables, normal, apply):
    fields = {"mlp_dim": 50, "norm_eps": 1e-3, "activation": "gelu_tanh"}
    model = blockless(pool="map", class_token=True, num_registers=2, **fields)
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    out, seen = apply(model, variables, images, method="features", mutable="intermediates")
    pool = MapPool(num_heads=3, **fields)
    expected = apply(pool, {"params": variables["params"]["map_pool"]}, out["tokens"])
    np.testing.assert_allclose(out["pooled"], expected, atol=1e-5)
    (weights,) = seen["intermediates"]["map_pool"]["attention"]
    assert weights.shape == (2, 3, 1, 3 + PATCHES)


def embedded(model, variables, images, apply):
    """The tokens before the first block, and the embedded patches in them without positions."""
    bare = dataclasses.replace(model, depth=0, pool="none", final_norm="none", num_classes=None)
    bare = dataclasses.replace(bare, class_token=model.has_class_token)
    params = {k: v for k, v in variables["params"].items() if k not in ("encoder", "norm", "head")}
    patches = PatchEmbed(model.width, model.patch_size)
    return (
        apply(bare, {"params": params}, images),
        apply(patches, {"params": params["patch_embed"]}, images),
    )


@pytest.mark.parametrize("num_registers", [0, 3])
@pytest.mark.parametrize("positions", ["learned", "sincos2d", "none"])
@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_are_class_token_registers_patches(
    class_token, positions, num_registers, random_variables, normal, apply
):
    model = small(
        pool="gap", class_token=class_token, positions=positions, num_registers=num_registers
    )
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    params = variables["params"]
    tokens, patches = embedded(model, variables, images, apply)

    assert ("pos_embed" in params) == (positions == "learned")
    token = params["cls_token"][0] if class_token else np.zeros((0, 36))
    if positions == "learned":
        learned = params["pos_embed"][0]
        token, patches = token + learned[:class_token], patches + learned[class_token:]
    elif positions == "sincos2d":
        # Only patches have a place on the grid.
        patches = patches + np.asarray(sincos2d(5, 7, 36))
    registers = params["register_tokens"][0] if num_registers else np.zeros((0, 36))
    assert registers.shape == (num_registers, 36)
    expected = [np.concatenate([token, registers, example]) for example in patches]
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


@pytest.mark.parametrize("final_norm", ["tokens", "pooled", "none"])
def test_final_norm(final_norm, random_variables, normal, apply):
    model = blockless(pool="gap", final_norm=final_norm, norm_eps=0.1)
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    out = apply(model, variables, images, method="features")
    params = dict(variables["params"])
    norm = params.pop("norm", None)
    assert (norm is None) == (final_norm == "none")
    bare = dataclasses.replace(model, final_norm="none")
    tokens = apply(bare, {"params": params}, images, method="features")["tokens"]

    def normalised(x):
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 0.1)
        return (x - x.mean(axis=-1, keepdims=True)) / spread * norm["scale"] + norm["bias"]

    pooled = tokens.mean(axis=1)
    if final_norm == "tokens":
        tokens = normalised(tokens)
        pooled = tokens.mean(axis=1)
    elif final_norm == "pooled":
        pooled = normalised(pooled)
    np.testing.assert_allclose(out["tokens"], tokens, atol=1e-5)
    np.testing.assert_allclose(out["pooled"], pooled, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "none"])
def test_representation_is_a_dense_layer_and_tanh_before_the_head(
    pool, random_variables, normal, apply
):
    model = blockless(pool=pool, class_token=True, representation=11)
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    params = variables["params"]
    out = apply(model, variables, images, method="features")
    tokens = out["tokens"] if pool == "none" else out["tokens"][:, 0]
    layer = params["representation"]
    expected = np.tanh(tokens @ layer["kernel"] + layer["bias"])
    assert expected.shape == (*tokens.shape[:-1], 11)
    np.testing.assert_allclose(out["pooled"], expected, atol=1e-5)
    logits = expected @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)


@pytest.mark.parametrize("num_classes", [None, 7])
@pytest.mark.parametrize(
    ("fields", "pooled"),
    [
        ({}, (2, 36)),
        ({"representation": 11}, (2, 11)),
        ({"pool": "none"}, (2, PATCHES, 36)),
        ({"pool": "none", "num_registers": 2, "class_token": True}, (2, 3 + PATCHES, 36)),
        ({"pool": "map", "width": 24}, (2, 24)),
    ],
)
def test_shapes_and_what_is_returned_without_a_head(fields, pooled, num_classes):
    model = blockless(num_classes=num_classes, **fields)
    images = jax.ShapeDtypeStruct((2, *IMAGE), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    features = functools.partial(model.apply, method="features")
    out = jax.tree.map(jnp.shape, jax.eval_shape(features, variables, images))
    tokens = (2, PATCHES + model.num_prefix_tokens, model.width)
    expected = {"tokens": tokens, "pooled": pooled}
    if num_classes is not None:
        expected["logits"] = (*pooled[:-1], 7)
    assert out == expected
    assert ("head" in variables["params"]) == (num_classes is not None)
    returned = jax.eval_shape(model.apply, variables, images)
    assert returned.shape == expected["pooled" if num_classes is None else "logits"]


@pytest.mark.parametrize("num_classes", [None, 7])
def test_call_returns_one_of_the_features(num_classes, random_variables, normal, apply):
    model = blockless(num_classes=num_classes)
    images = normal((2, *IMAGE))
    variables = random_variables(model, images)
    features = apply(model, variables, images, method="features")
    name = "pooled" if num_classes is None else "logits"
    np.testing.assert_array_equal(apply(model, variables, images), features[name])


def test_patch_methods_share_parameters_and_agree(random_variables, normal, apply):
    images = normal((2, *IMAGE))
    variables = random_variables(BLOCKLESS, images)
    np.testing.assert_allclose(
        apply(blockless(patch_method="matmul"), variables, images),
        apply(BLOCKLESS, variables, images),
        atol=1e-5,
    )
    for method in ("conv", "matmul"):
        program = jax.make_jaxpr(blockless(patch_method=method).apply)(variables, images)
        assert ("conv_general_dilated" in str(program)) == (method == "conv")


def test_integer_images_are_taken_as_numbers(random_variables, apply):
    images = np.random.default_rng(0).integers(0, 256, (2, *IMAGE), np.uint8)
    variables = random_variables(BLOCKLESS, images)
    np.testing.assert_allclose(
        apply(BLOCKLESS, variables, images),
        apply(BLOCKLESS, variables, images.astype(np.float32)),
        atol=1e-6,
    )


def test_train_without_rates_is_evaluation_and_needs_no_key(random_variables, normal, apply):
    images = normal((2, *IMAGE))
    variables = random_variables(SMALL, images)
    np.testing.assert_array_equal(
        apply(SMALL, variables, images, train=True), apply(SMALL, variables, images)
    )


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "embed_dropout", "drop_path"])
def test_each_rate_acts_in_training_alone(rate, random_variables, normal, apply, jit):
    images = normal((4, *IMAGE))
    plain = small(depth=2)  # the first block never drops its path
    variables = random_variables(plain, images)
    noisy = dataclasses.replace(plain, **{rate: 0.5})
    expected = apply(plain, variables, images)
    np.testing.assert_array_equal(apply(noisy, variables, images), expected)

    @jit
    def train(key):
        return noisy.apply(variables, images, train=True, rngs={"dropout": key})

    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - expected).max() > 0.01


def test_embed_dropout_acts_on_tokens_with_their_positions(random_variables, normal, apply):
    model = blockless(
        pool="none", class_token=True, num_registers=2, num_classes=None, final_norm="none"
    )
    images = normal((8, *IMAGE))
    variables = random_variables(model, images)
    tokens = apply(model, variables, images)
    noisy = dataclasses.replace(model, embed_dropout=0.25)
    out = apply(noisy, variables, images, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = out == 0
    np.testing.assert_allclose(out[~dropped], tokens[~dropped] / 0.75, rtol=1e-5)
    assert dropped.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / out.size))


def test_drop_path_spares_the_first_block(random_variables, normal, apply):
    images = normal((4, *IMAGE))
    one = small(drop_path=0.9)
    variables = random_variables(one, images)
    out = apply(one, variables, images, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(out, apply(one, variables, images))


def test_every_field_of_a_block_reaches_the_blocks(random_variables, normal, apply):
    images = normal((2, *IMAGE))
    fields = {
        "num_heads": 4,
        "head_dim": 5,
        "mlp_dim": 20,
        "qkv_bias": False,
        "qk_scale": 0.3,
        "layer_scale": 0.1,
        "mlp_output_activation": True,
        "activation": "gelu_tanh",
        "norm_eps": 0.1,
    }
    model = small(block_output_norm=True, positions="none", **fields)
    variables = random_variables(model, images)
    tokens, _ = embedded(model, variables, images, apply)
    params = variables["params"]
    block = Block(output_norm=True, **fields)
    expected = apply(block, {"params": params["encoder"]["block_0"]}, tokens)
    norm = LayerNorm(0.1, "float32")
    expected = apply(norm, {"params": params["norm"]}, expected)[:, 0]
    out = apply(model, variables, images, method="features")["pooled"]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_bfloat16_keeps_parameters_in_float32(random_variables, normal, apply):
    images = normal((4, *IMAGE))
    model = small(
        pool="map",
        class_token=True,
        num_registers=1,
        layer_scale=0.5,
        block_output_norm=True,
        representation=20,
    )
    half = dataclasses.replace(model, dtype="bfloat16")
    variables = random_variables(half, images)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, random_variables(model, images))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    exact = apply(model, variables, images, method="features")
    out, seen = apply(half, variables, images, method="features", mutable="intermediates")
    for name in ("tokens", "pooled", "logits"):
        assert out[name].dtype == jnp.bfloat16
        error = np.abs(out[name].astype(np.float32) - exact[name])
        # Eight bits of mantissa, some twenty roundings: a few percent, and not nothing.
        assert 0 < error.max() < 0.05 * np.abs(exact[name]).max()
    weights = jax.tree.leaves(seen)
    assert {leaf.dtype for leaf in weights} == {np.dtype(np.float32)}


def test_bfloat16_trains(random_variables, normal, jit):
    images = normal((4, *IMAGE))
    variables = random_variables(SMALL, images)

    def gradient(model):
        def loss(params):
            logits = model.apply({"params": params}, images)
            return (logits.astype(jnp.float32) ** 2).mean()

        return jit(jax.grad(loss))(variables["params"])

    exact, half = gradient(SMALL), gradient(small(dtype="bfloat16"))
    chex.assert_trees_all_equal_shapes_and_dtypes(exact, half)
    exact, half = (np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (exact, half))
    cosine = exact @ half / np.linalg.norm(exact) / np.linalg.norm(half)
    assert 0.999 < cosine < 1 - 1e-7


# A call that the fields forbid: fields, the shape of the images, and what the message must say.
FORBIDDEN = {
    "patches": (
        {"patch_size": 4},
        (2, 10, 8, 3),
        [
            "patch_size=(4, 4) does not divide the image of 10x8 pixels",
            "use a patch height out of [1, 2, 5, 10] and a patch width out of [1, 2, 4, 8]",
        ],
    ),
    "heads": (
        {"num_heads": 5},
        (2, *IMAGE),
        [
            "num_heads=5 does not divide width=36",
            "use one of [1, 2, 3, 4, 6, 9, 12, 18, 36] heads",
            "or set head_dim",
        ],
    ),
    "declared size": (
        {"image_size": 12},
        (2, *IMAGE),
        [
            "image_size=12 was declared, but the images are 10x21 pixels",
            "resize them, or declare their size",
        ],
    ),
    "declared rectangle": (
        {"image_size": (21, 10)},
        (2, *IMAGE),
        ["image_size=(21, 10) was declared, but the images are 10x21 pixels"],
    ),
    "declared channels": (
        {"channels": 1},
        (2, *IMAGE),
        [
            "channels=1 was declared, but the images of shape (2, 10, 21, 3) have 3",
            "images are [b, h, w, 1]",
        ],
    ),
    "no class token to pool": (
        {"pool": "cls", "class_token": False},
        (2, *IMAGE),
        ["class_token=False with pool='cls'", "use pool='gap', 'map', 'seq' or 'none'"],
    ),
    "sine and cosine": (
        {"positions": "sincos2d", "width": 30},
        (2, *IMAGE),
        ["width=30 with positions='sincos2d'", "use a multiple of 4, at least 8"],
    ),
}


@pytest.mark.parametrize(("fields", "shape", "says"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_call_says_what_would_be_right(fields, shape, says):
    model, images = small(**fields), jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the messages are compared below
        jax.eval_shape(model.init, jax.random.key(0), images)
    for part in says:
        assert part in str(error.value)


def test_declared_size_and_channels_that_hold_change_nothing(random_variables, normal, apply):
    images = normal((2, *IMAGE))
    variables = random_variables(BLOCKLESS, images)
    np.testing.assert_array_equal(
        apply(blockless(image_size=(10, 21), channels=3), variables, images),
        apply(BLOCKLESS, variables, images),
    )


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (
            (2, 10, 21, 1),
            [
                "channels=1 in the images of shape (2, 10, 21, 1)",
                "was initialised for 3: images are [b, h, w, 3]",
            ],
        ),
        (
            (2, 10, 24, 3),
            [
                "the images make 5x8 patches, so pos_embed should have shape (1, 41, 36)",
                "the parameters hold (1, 36, 36)",
                "resize the images to the size the model was initialised with",
                "or resample pos_embed",
            ],
        ),
    ],
)
def test_images_unlike_those_of_the_parameters(shape, says):
    images = jax.ShapeDtypeStruct((2, *IMAGE), jnp.float32)
    variables = jax.eval_shape(SMALL.init, jax.random.key(0), images)
    other = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the messages are compared below
        jax.eval_shape(SMALL.apply, variables, other)
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize("positions", ["sincos2d", "none"])
def test_positions_that_are_not_learned_take_any_grid(positions, random_variables, normal, apply):
    model = blockless(positions=positions, num_registers=1)
    variables = random_variables(model, normal((2, *IMAGE)))
    assert apply(model, variables, normal((1, 14, 12, 3))).shape == (1, 7)


@pytest.fixture
def no_shape_checks():
    """As outside of tests: nobody checks the annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("shape", [(10, 21, 3), (1, 2, 10, 21, 3)])
@pytest.mark.usefixtures("no_shape_checks")
def test_images_without_four_axes(shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match="expected four axes") as error:
        jax.eval_shape(SMALL.init, jax.random.key(0), images)
    assert f"images have shape {shape}: expected four axes, [b, h, w, c]" in str(error.value)


def test_a_model_is_a_comparable_hashable_dataclass():
    assert small() == SMALL
    assert small() is not SMALL
    assert hash(small()) == hash(SMALL)
    names = {field.name for field in dataclasses.fields(SMALL)} - {"parent", "name"}
    other = {"patch_size": 4, "pool": "map", "dtype": "bfloat16", "drop_path": 0.1, "depth": 3}
    assert other.keys() <= names
    models = {SMALL, small(), *(small(**{name: value}) for name, value in other.items())}
    assert len(models) == 1 + len(other)


def test_a_model_is_a_static_argument_of_jit(random_variables, normal):
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model, variables, images):
        traced.append(model)
        return model.apply(variables, images)

    images = normal((2, *IMAGE))
    variables = random_variables(SMALL, images)
    first = logits(SMALL, variables, images)
    np.testing.assert_array_equal(logits(SMALL, variables, images), first)
    assert len(traced) == 1
    logits(small(norm_eps=0.1), variables, images)
    assert len(traced) == 2


def test_vmap_over_images_is_the_batch(random_variables, normal, apply, jit):
    images = normal((3, *IMAGE))
    variables = random_variables(SMALL, images)
    one_by_one = jit(jax.vmap(lambda image: SMALL.apply(variables, image[None])[0]))(images)
    np.testing.assert_allclose(one_by_one, apply(SMALL, variables, images), atol=1e-5)


def test_vmap_over_models(random_variables, normal, apply, jit):
    images = normal((2, *IMAGE))
    members = [random_variables(SMALL, images, seed=seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    logits = jit(jax.vmap(SMALL.apply, in_axes=(0, None)))(stacked, images)
    expected = np.stack([apply(SMALL, member, images) for member in members])
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_checkpointing_changes_no_gradient(random_variables, normal, jit):
    images = normal((2, *IMAGE))
    # With dropout: the backward pass must draw the same masks again.
    model = small(dropout=0.3)
    params = random_variables(model, images)["params"]

    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        return (model.apply({"params": params}, images, train=True, rngs=rngs) ** 2).mean()

    plain = jit(jax.grad(loss))(params)
    chex.assert_tree_all_finite(plain)
    checkpointed = jit(jax.grad(jax.checkpoint(loss)))(params)
    chex.assert_trees_all_close(checkpointed, plain, rtol=1e-5, atol=1e-6)


def test_every_parameter_has_a_gradient(random_variables, normal, jit):
    images = normal((2, *IMAGE))
    model = small(pool="map", class_token=True, num_registers=2, layer_scale=0.5, representation=5)
    params = random_variables(model, images)["params"]

    def loss(params):
        return (model.apply({"params": params}, images) ** 2).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(jit(jax.grad(loss))(params)):
        # A softmax does not see what all its logits share: no gradient for the bias of keys.
        if path[-1].key == "bias" and path[-2].key in ("qkv", "kv"):
            leaf = np.delete(leaf, slice(-72, -36))
        assert np.abs(leaf).min() > 0, jax.tree_util.keystr(path)


class TestTransformations(chex.TestCase):
    """Compiled, operation by operation, and under pmap: chex runs one function in every way."""

    @pytest.fixture(autouse=True)
    def example(self, random_variables, normal):
        self.images = jnp.asarray(normal((2, *IMAGE)))
        self.variables = jax.tree.map(jnp.asarray, random_variables(SMALL, self.images))

    @chex.variants(without_jit=True)
    def test_logits_are_the_same(self):
        def logits(images):
            return SMALL.apply(self.variables, images)

        expected = jax.jit(logits)(self.images)
        assert np.abs(expected).max() > 0.1
        chex.assert_trees_all_close(self.variant(logits)(self.images), expected, atol=1e-5)

    @chex.variants(with_pmap=True)
    def test_loss_and_gradient_are_the_same(self):
        @jax.value_and_grad
        def loss(images):
            return (SMALL.apply(self.variables, images) ** 2).mean()

        value, gradient = jax.jit(loss)(self.images)
        assert value > 0.1
        assert np.abs(gradient).max() > 0.01
        chex.assert_trees_all_close(self.variant(loss)(self.images), (value, gradient), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pool", "mean"),
        ("positions", "sincos"),
        ("activation", "relu"),
        ("final_norm", "all"),
        ("patch_method", "linear"),
        ("init_scheme", "he"),
        ("remat", "all"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_a_word_that_a_field_does_not_know_is_refused(field, value):
    model = ViT(patch_size=4, width=16, depth=1, num_heads=2, **{field: value})
    with pytest.raises(ValueError, match=f"{field}='{value}': use one of"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
