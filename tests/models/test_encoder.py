import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax import Block, Encoder, Mlp, SelfAttention
from vit_jax.models.layers import LayerNorm


def branches(jit, block, params, x, factors=(1, 1)):
    """x, x after the attention, and after the MLP; the branches times `factors`."""

    @jit
    def both(params, x):
        def norm(name, x):
            return LayerNorm(block.norm_eps, "float32").apply({"params": params[name]}, x)

        attention = SelfAttention(block.num_heads).apply
        middle = x + factors[0] * attention({"params": params["attn"]}, norm("norm1", x))
        mlp = Mlp(block.mlp_dim).apply
        return middle, middle + factors[1] * mlp({"params": params["mlp"]}, norm("norm2", middle))

    return x, *both(params, x)


@pytest.mark.parametrize("norm_eps", [1e-6, 0.1])
@pytest.mark.parametrize("mlp_dim", [None, 50])
def test_block_equals_torch_encoder_layer(
    mlp_dim, norm_eps, torch, load, to_torch, torch_names, random_variables, normal, apply
):
    block = Block(num_heads=3, mlp_dim=mlp_dim, norm_eps=norm_eps)
    x = normal((2, 7, 36))
    variables = random_variables(block, x)
    reference = torch.nn.TransformerEncoderLayer(
        d_model=36,
        nhead=3,
        dim_feedforward=mlp_dim or 4 * 36,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=norm_eps,
        batch_first=True,
        norm_first=True,
    )
    load(reference, torch_names.block(variables["params"]))
    expected = reference(to_torch(x)).detach().numpy()
    np.testing.assert_allclose(apply(block, variables, x), expected, atol=1e-5)


def test_layer_scale_acts_on_both_branches(random_variables, normal, apply, jit):
    block = Block(num_heads=3, mlp_dim=50, layer_scale=0.1)
    x = normal((2, 7, 36))
    variables = random_variables(block, x)
    params = variables["params"]
    factors = [params[f"layer_scale{number}"]["gamma"] for number in (1, 2)]
    _, _, expected = branches(jit, block, params, x, factors)
    np.testing.assert_allclose(apply(block, variables, x), expected, atol=1e-5)


def test_output_norm_is_the_last_step(random_variables, normal, apply, jit):
    block = Block(num_heads=3, mlp_dim=50, norm_eps=0.1, output_norm=True)
    x = normal((2, 7, 36))
    variables = random_variables(block, x)
    params = variables["params"]
    scale, bias = params["norm3"]["scale"], params["norm3"]["bias"]
    plain = np.asarray(branches(jit, block, params, x)[-1], np.float64)
    centred = plain - plain.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(plain.var(axis=-1, keepdims=True) + 0.1) * scale + bias
    np.testing.assert_allclose(apply(block, variables, x), expected, atol=1e-5)


def test_drop_path_drops_each_branch_of_each_example_on_its_own(
    random_variables, normal, apply, jit
):
    examples = 256
    block = Block(num_heads=3, mlp_dim=50, drop_path=0.5)
    x = jnp.broadcast_to(normal((1, 2, 12)), (examples, 2, 12))
    variables = random_variables(block, x)
    # Neither branch, the attention, the MLP, or both; what stays is doubled.
    outcomes = np.concatenate(
        [
            branches(jit, block, variables["params"], x[:1], factors)[-1]
            for factors in ((0, 0), (2, 0), (0, 2), (2, 2))
        ]
    )
    out = apply(block, variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    distance = np.abs(np.asarray(out)[:, None] - outcomes).max(axis=(2, 3))
    nearest = np.sort(distance, axis=1)
    assert nearest[:, 0].max() < 1e-5
    assert nearest[:, 1].min() > 0.1
    # All four about equally often: the branches do not share one draw.
    frequencies = np.bincount(distance.argmin(axis=1), minlength=4) / examples
    np.testing.assert_allclose(frequencies, 0.25, atol=4 * np.sqrt(3 / 16 / examples))

    kept = branches(jit, block, variables["params"], x)[-1]
    np.testing.assert_allclose(apply(block, variables, x), kept, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0.0]), (2, [0.0, 0.3]), (4, [0.0, 0.1, 0.2, 0.3]), (7, np.linspace(0, 0.3, 7))],
)
def test_drop_path_rates_grow_linearly_with_depth(depth, expected):
    rates = {}

    class Recorder(nn.Module):
        drop_path: float

        def __call__(self, x, *, train):
            rates[self.name] = (self.drop_path, train)
            return x + 1

    x = jnp.zeros((1, 2, 3))
    out = Encoder(depth, Recorder, drop_path=0.3).apply({}, x, train=True)
    np.testing.assert_array_equal(out, x + depth)
    assert list(rates) == [f"block_{i}" for i in range(depth)]
    np.testing.assert_allclose([rate for rate, _ in rates.values()], expected, atol=1e-7)
    assert all(train for _, train in rates.values())


def test_encoder_is_its_blocks_one_after_another(random_variables, normal, apply, jit):
    make = functools.partial(Block, num_heads=3, mlp_dim=20)
    encoder = Encoder(3, make)
    x = normal((2, 5, 12))
    variables = random_variables(encoder, x)
    expected = x
    for i in range(3):
        expected = apply(make(), {"params": variables["params"][f"block_{i}"]}, expected)
    np.testing.assert_allclose(apply(encoder, variables, x), expected, atol=1e-5)


def test_blocks_drop_their_own_examples(random_variables, normal, apply, jit):
    # All blocks draw from one key, and yet must not drop the same examples.
    examples = 1000
    encoder = Encoder(3, functools.partial(Block, num_heads=3, mlp_dim=20), drop_path=0.9)
    x = jnp.broadcast_to(normal((1, 2, 12)), (examples, 2, 12))
    variables = random_variables(encoder, x)
    _, seen = apply(
        encoder,
        variables,
        x,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda module, _: isinstance(module, Block),
    )
    outputs = [seen["intermediates"][f"block_{i}"]["__call__"][0] for i in range(3)]
    unchanged = [
        np.asarray((before == after).all(axis=(1, 2)))
        for before, after in itertools.pairwise([x, *outputs])
    ]
    # The rates are 0, 0.45 and 0.9; nothing changes when both branches are dropped.
    assert not unchanged[0].any()
    for i, rate in ((1, 0.45), (2, 0.9)):
        bound = 4 * np.sqrt(rate**2 * (1 - rate**2) / examples)
        assert unchanged[i].mean() == pytest.approx(rate**2, abs=bound)
    # Independent draws leave both as they are as often as the product says.
    expected = 0.45**2 * 0.9**2
    bound = 4 * np.sqrt(expected * (1 - expected) / examples)
    assert (unchanged[1] & unchanged[2]).mean() == pytest.approx(expected, abs=bound)
