"""What small images ask for: RMSNorm, rotary positions, sequence pooling, shifted, larger and fewer
patches, a constant drop-path rate, mimetic initial values.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import PatchEmbed, ViT
from vit_jax.models import PatchDropout, RMSNorm, SelfAttention, SeqPool, initializers
from vit_jax.models.patches import shifted_copies
from vit_jax.ops.positions import places, rotary2d, rotate, sincos2d
from vit_jax.ops.resample import resample_patch_kernel

SMALL = ViT(
    patch_size=2, width=16, depth=2, num_heads=2, num_classes=3, pool="gap", positions="sincos2d"
)


def test_rms_norm_equals_torch(torch, load, to_torch, random_variables, normal, apply):
    module, x = RMSNorm(epsilon=0.1), normal((3, 5, 12))
    variables = random_variables(module, x)
    reference = load(torch.nn.RMSNorm(12, eps=0.1), {"weight": variables["params"]["scale"]})
    expected = reference(to_torch(x)).detach().numpy()
    np.testing.assert_allclose(apply(module, variables, x), expected, atol=1e-6)


def test_norm_rms_leaves_no_layer_norm():
    model = SMALL.clone(norm="rms", qk_norm=True, block_output_norm=True, pool="map")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    norms = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes) if "norm" in str(path)]
    assert (
        len(norms) == 2 * 5 + 2
    )  # a block's norms 1 to 3, of queries, of keys; the pool's; the last
    assert all(path[-1].key == "scale" for path in norms)


def test_rotation_is_that_of_complex_numbers(normal, jit):
    x, angles = normal((2, 6, 3, 8)), rotary2d(2, 3, 8)
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, None]
    expected = np.concatenate([expected.real, expected.imag], axis=-1)
    np.testing.assert_allclose(jit(rotate)(x, angles), expected, atol=1e-6)


def test_angles_are_axial_and_those_before_the_patches_zero():
    angles = rotary2d(3, 2, head_dim=8, prefix=2)
    assert angles.shape == (8, 4)
    np.testing.assert_array_equal(angles[:2], 0)
    # Row 2, column 1: x at frequencies 1 and 1/10, then y.
    np.testing.assert_allclose(angles[2 + 2 * 2 + 1], [1, 0.1, 2, 0.2], rtol=1e-6)
    with pytest.raises(ValueError, match="head_dim=6 with rope=True: use a multiple of 4"):
        rotary2d(2, 2, head_dim=6)


def test_rotated_products_depend_on_the_distance_alone(normal, jit):
    q, k = (np.broadcast_to(normal((1, 1, 1, 8), seed), (1, 25, 1, 8)) for seed in (1, 2))
    angles = rotary2d(5, 5, 8)

    def products(q, k):
        return jnp.einsum("bqkh,bnkh->bqn", rotate(q, angles), rotate(k, angles))[0]

    grid = jit(products)(q, k).reshape(5, 5, 5, 5)
    np.testing.assert_allclose(grid[0, 0, :4, :3], grid[1, 2, 1:5, 2:5], atol=1e-5)
    assert abs(grid[0, 0, 0, 1] - grid[0, 0, 1, 0]).max() > 0.01


def test_attention_with_rope_equals_numpy(random_variables, normal, apply):
    module = SelfAttention(num_heads=2, rope_grid=(2, 3))
    x = normal((2, 7, 16))  # a class token, then six patches
    variables = random_variables(module, x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = (part.reshape(2, 7, 2, 8) for part in np.split(qkv, 3, axis=-1))
    turns = np.exp(1j * rotary2d(2, 3, 8, prefix=1).astype(np.float64))[:, None]
    q, k = ((part[..., :4] + 1j * part[..., 4:]) * turns for part in (q, k))
    logits = np.einsum("bqkh,bnkh->bkqn", q, k.conj()).real / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    out = np.einsum("bkqn,bnkh->bqkh", weights, v).reshape(2, 7, 16)
    expected = out @ params["proj"]["kernel"] + params["proj"]["bias"]
    np.testing.assert_allclose(apply(module, variables, x), expected, atol=1e-5)


def test_vit_with_rope_knows_where_patches_are(random_variables, normal, apply):
    images = normal((1, 8, 8, 3))
    turned = images[:, ::-1]
    model = SMALL.clone(positions="none", class_token=True, num_registers=1)
    for rope in (False, True):
        model = model.clone(rope=rope)
        variables = random_variables(model, images)
        outputs = [apply(model, variables, each) for each in (images, turned)]
        # Patches of even height, mirrored: their inside changes too. Mirror that back.
        blocks = turned.reshape(1, 4, 2, 8, 3)[:, :, ::-1].reshape(images.shape)
        moved = apply(model, variables, blocks)
        assert (abs(moved - outputs[0]).max() < 1e-5) != rope


def test_sequence_pooling_equals_torch(
    torch, load, to_torch, torch_names, random_variables, normal, apply
):
    module, x = SeqPool(), normal((2, 7, 12))
    variables = random_variables(module, x)
    score = load(torch.nn.Linear(12, 1), torch_names.linear(variables["params"]["score"]))
    weights = score(to_torch(x)).softmax(dim=1)
    expected = (weights.transpose(1, 2) @ to_torch(x))[:, 0].detach().numpy()
    out, seen = apply(module, variables, x, mutable="intermediates")
    np.testing.assert_allclose(out, expected, atol=1e-6)
    (shown,) = seen["intermediates"]["attention"]
    np.testing.assert_allclose(shown[:, 0, 0], weights[..., 0].detach().numpy(), atol=1e-6)


def test_shifted_copies_look_into_four_directions():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    own, *moved = np.moveaxis(np.asarray(shifted_copies(image, (2, 2)))[0], -1, 0)
    np.testing.assert_array_equal(own, image[0, :, :, 0])
    # Moved up and left, what stood at (1, 1) is at the corner; and so on, zeros coming in.
    padded = np.pad(own, 1)
    for copy, (top, left) in zip(moved, [(2, 2), (2, 0), (0, 2), (0, 0)], strict=True):
        np.testing.assert_array_equal(copy, padded[top : top + 4, left : left + 4])


def test_shifted_patches_equal_torch(torch, to_torch, random_variables, normal, apply):
    functional = torch.nn.functional
    module = PatchEmbed(width=12, patch_size=(4, 2), shifted=True, norm_eps=0.1)
    images = normal((2, 8, 6, 3))
    variables = random_variables(module, images)
    params = jax.tree.map(lambda leaf: torch.tensor(np.array(leaf)), variables["params"])
    assert params["kernel"].shape == (4, 2, 15, 12)
    x = to_torch(images)
    # Padding by (left, right, top, bottom): negative ones cut off what is moved out.
    pads = [(0, 0, 0, 0), (-1, 1, -2, 2), (1, -1, -2, 2), (-1, 1, 2, -2), (1, -1, 2, -2)]
    x = torch.cat([functional.pad(x, pad) for pad in pads], dim=1)
    patches = functional.unfold(x, (4, 2), stride=(4, 2)).transpose(1, 2)
    # unfold orders a patch's numbers channel first, and ours last.
    patches = patches.unflatten(2, (15, 8)).transpose(2, 3).flatten(2)
    norm = params["norm"]
    patches = functional.layer_norm(patches, (120,), norm["scale"], norm["bias"], eps=0.1)
    expected = patches @ params["kernel"].reshape(120, 12) + params["bias"]
    np.testing.assert_allclose(apply(module, variables, images), expected.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="initialised for 3: images are"):
        module.apply(variables, images[..., :1])


@pytest.mark.parametrize("stored", [4, (3, 8)])
def test_stored_patch_kernel_is_resized_in_every_pass(stored, random_variables, normal, apply):
    module = PatchEmbed(width=12, patch_size=2, kernel_size=stored)
    images = normal((2, 8, 6, 3))
    variables = random_variables(module, images)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (*((4, 4) if stored == 4 else stored), 3, 12)
    kernel = resample_patch_kernel(kernel, (2, 2), "linear")
    resized = {"params": variables["params"] | {"kernel": kernel}}
    expected = apply(PatchEmbed(width=12, patch_size=2), resized, images)
    np.testing.assert_allclose(apply(module, variables, images), expected, atol=1e-5)


def test_one_set_of_weights_takes_several_patch_sizes(random_variables, normal, apply, jit):
    images = normal((2, 8, 8, 3))
    fine = SMALL.clone(patch_kernel_size=4)
    variables = random_variables(fine, images)
    for patch in (1, 2, 4, 8):
        model = fine.clone(patch_size=patch)
        tokens = apply(model, variables, images, method="features")["tokens"]
        assert tokens.shape == (2, (8 // patch) ** 2, 16)

    def loss(variables):
        return (fine.apply(variables, images) ** 2).sum()

    kernel = jit(jax.grad(loss))(variables)["params"]["patch_embed"]["kernel"]
    # Gradients lie in the space of the resize, 2 * 2 out of 4 * 4 per channel.
    columns = kernel.transpose(2, 3, 0, 1).reshape(-1, 16)
    assert np.linalg.matrix_rank(columns, tol=1e-4 * abs(columns).max()) == 4


def test_patch_dropout_keeps_whole_tokens_and_those_before_the_patches(normal, jit):
    x = normal((64, 2 + 10, 4))
    module = PatchDropout(rate=0.35, first=2)

    def drop(x, key):
        return module.apply({}, x, train=True, rngs={"dropout": key})

    out = jit(drop)(x, jax.random.key(0))
    assert out.shape == (64, 2 + 6, 4)  # 6.5 is rounded to even
    np.testing.assert_array_equal(out[:, :2], x[:, :2])
    places = (out[:, 2:, None] == x[:, None, 2:]).all(axis=-1)
    assert (places.sum(axis=2) == 1).all()
    times = places.sum(axis=1)
    assert times.max() == 1
    # Each patch of 10 stays 64 * 0.6 times, give or take.
    assert (abs(times.sum(axis=0) - 38.4) < 5 * np.sqrt(64 * 0.6 * 0.4)).all()
    assert len(np.unique(times, axis=0)) > 30
    np.testing.assert_array_equal(module.apply({}, jnp.asarray(x)), x)
    assert (jit(drop)(x, jax.random.key(1)) != out).any()


def test_patch_dropout_keeps_one_patch_at_least(normal):
    x = jnp.asarray(normal((2, 4, 4)))
    key = {"dropout": jax.random.key(0)}
    assert PatchDropout(rate=0.99).apply({}, x, train=True, rngs=key).shape == (2, 1, 4)


def test_model_with_patch_dropout_trains_on_fewer_tokens(random_variables, normal):
    images = normal((2, 8, 8, 3))
    model = SMALL.clone(patch_dropout=0.5, pool="cls")
    variables = random_variables(model, images)
    shapes = {
        train: jax.eval_shape(
            lambda train=train: model.apply(
                variables,
                images,
                method="features",
                train=train,
                rngs={"dropout": jax.random.key(0)},
            )
        )["tokens"].shape
        for train in (False, True)
    }
    assert shapes == {False: (2, 17, 16), True: (2, 9, 16)}
    with pytest.raises(ValueError, match=r"patch_dropout=0\.5 with rope=True"):
        model.clone(rope=True).init(jax.random.key(0), images)


def test_constant_drop_path_has_one_rate_in_all_blocks(random_variables, normal, jit):
    """With a rate near 1 hardly a branch is left; the linear rates begin at 0."""
    images = normal((16, 8, 8, 3))
    model = SMALL.clone(depth=1, drop_path=0.999)
    variables = random_variables(model, images)

    def tokens(model, train):
        return jit(
            lambda key: model.apply(
                variables, images, method="features", train=train, rngs={"dropout": key}
            )["tokens"]
        )(jax.random.key(0))

    plain = tokens(model, False)
    np.testing.assert_allclose(tokens(model, True), plain, atol=1e-5)
    constant = tokens(model.clone(drop_path_schedule="constant"), True)
    assert (abs(constant - plain).max(axis=(1, 2)) > 0.1).mean() > 0.9


def test_mimetic_products_are_near_plus_and_minus_identity():
    width, heads = 64, 4
    for head_dim, share in ((16, 0.25), (64, 1.0)):
        qkv, proj = initializers.mimetic_attention(jax.random.key(0), width, heads, head_dim)
        inner = heads * head_dim
        q, k, v = np.split(np.asarray(qkv), 3, axis=1)
        assert qkv.shape == (width, 3 * inner)
        assert proj.shape == (inner, width)
        for own in np.split(np.arange(inner), heads):
            product = q[:, own] @ k[:, own].T
            # 0.7 (Z + I), of which rank head_dim is left: its trace tells the identity's share.
            assert np.linalg.matrix_rank(product) == min(head_dim, width)
            if share == 1.0:
                assert np.trace(product) / width == pytest.approx(0.7, abs=0.05)
                noise = product - 0.7 * np.eye(width)
                assert noise.std() == pytest.approx(0.7 / np.sqrt(width), rel=0.05)
            else:
                assert np.trace(product) / width > 0.7 * share
        product = v @ np.asarray(proj)
        assert np.trace(product) / width == pytest.approx(-0.4, abs=0.05)
        assert (product + 0.4 * np.eye(width)).std() == pytest.approx(0.4 / 8, rel=0.05)


def test_mimetic_heads_differ_and_the_rest_is_the_papers(jit):
    images = jnp.zeros((1, 8, 8, 3))
    model = SMALL.clone(width=32)
    paper, mimetic = (
        jit(model.clone(init_scheme=scheme).init)(jax.random.key(0), images)["params"]
        for scheme in ("paper", "mimetic")
    )
    for i in range(2):
        ours, theirs = (tree["encoder"].pop(f"block_{i}") for tree in (mimetic, paper))
        attention = ours.pop("attn")
        theirs.pop("attn")
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        q, k, v = np.split(attention["qkv"]["kernel"], 3, axis=1)
        assert np.trace(v @ attention["proj"]["kernel"]) / 32 == pytest.approx(-0.4, abs=0.1)
        first, second = (q[:, own] @ k[:, own].T for own in (slice(16), slice(16, 32)))
        assert np.trace(first) > 0 < np.trace(second)
        assert abs(first - second).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, mimetic, paper)


def test_a_mimetic_model_computes_what_any_model_of_its_parameters_does(
    random_variables, normal, apply
):
    images = normal((2, 8, 8, 3))
    variables = random_variables(SMALL, images)
    out = apply(SMALL.clone(init_scheme="mimetic"), variables, images)
    np.testing.assert_array_equal(out, apply(SMALL, variables, images))


def test_a_place_has_the_same_position_in_patches_of_any_size():
    coarse = sincos2d(2, 3, 16)
    fine = sincos2d(4, 6, 16, scale=(0.5, 0.5)).reshape(4, 6, 16)
    # The middle of a patch lies between the middles of the four that it is cut into.
    y, x = places(4, 6, (0.5, 0.5))
    np.testing.assert_allclose(y.reshape(4, 6)[:, 0], [-0.25, 0.25, 0.75, 1.25])
    np.testing.assert_allclose(x.reshape(4, 6)[0], [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25])
    middles = (fine[0::2, 0::2] + fine[1::2, 1::2]) / 2
    np.testing.assert_allclose(middles.reshape(6, 16), coarse, atol=0.04)
    angles, finer = rotary2d(2, 3, 8), rotary2d(4, 6, 8, scale=(0.5, 0.5)).reshape(4, 6, 4)
    middles = (finer[0::2, 0::2] + finer[1::2, 1::2]) / 2
    np.testing.assert_allclose(middles.reshape(6, 4), angles, atol=1e-6)
    assert SMALL.clone(patch_kernel_size=(4, 1)).position_scale == (0.5, 2.0)
