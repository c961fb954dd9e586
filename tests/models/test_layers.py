import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax import DropPath, LayerScale, Mlp
from vit_jax.models.layers import Dense, Dropout, LayerNorm, activate


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 3, 4, 5)])
def test_dense_has_the_parameters_and_values_of_flax_dense(
    shape, use_bias, random_variables, normal, apply
):
    x = normal(shape)
    ours, theirs = Dense(7, use_bias=use_bias), nn.Dense(7, use_bias=use_bias)
    variables = random_variables(ours, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, random_variables(theirs, x))
    out = apply(ours, variables, x)
    assert out.shape == (*shape[:-1], 7)
    np.testing.assert_allclose(out, apply(theirs, variables, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_activation_equals_torch(activation, approximate, torch, to_torch):
    x = jnp.linspace(-6, 6, 1001)
    expected = torch.nn.functional.gelu(to_torch(x), approximate=approximate).numpy()
    np.testing.assert_allclose(activate(x, activation), expected, atol=1e-6)
    # The two differ by up to 5e-4, so neither can pass for the other.
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert (np.abs(activate(x, activation) - np.array(exact)).max() < 1e-5) == (
        activation == "gelu"
    )


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_layer_norm_equals_torch(
    epsilon, torch, load, to_torch, torch_names, random_variables, apply
):
    module = LayerNorm(epsilon, "float32")
    # A mean a thousand times the spread: E[x^2] - E[x]^2 would lose all digits.
    x = 1000 + jax.random.normal(jax.random.key(0), (3, 5, 36))
    variables = random_variables(module, x)
    norm = torch.nn.LayerNorm(36, eps=epsilon)
    reference = load(norm, torch_names.norm(variables["params"]))
    expected = reference(to_torch(x)).detach().numpy()
    np.testing.assert_allclose(apply(module, variables, x), expected, atol=1e-3)
    near = x - 1000
    expected = reference(to_torch(near)).detach().numpy()
    np.testing.assert_allclose(apply(module, variables, near), expected, atol=1e-5)


@pytest.mark.parametrize("activate_output", [False, True])
@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_mlp_equals_torch(
    activate_output,
    activation,
    approximate,
    torch,
    load,
    to_torch,
    torch_names,
    normal,
    random_variables,
    apply,
):
    module = Mlp(50, activation=activation, activate_output=activate_output)
    x = normal((2, 7, 36))
    variables = random_variables(module, x)
    gelu = torch.nn.GELU(approximate=approximate)
    layers = [torch.nn.Linear(36, 50), gelu, torch.nn.Linear(50, 36)]
    reference = torch.nn.Sequential(*layers, *[gelu] * activate_output)
    names = torch_names.linear(variables["params"]["fc1"], "0.")
    load(reference, names | torch_names.linear(variables["params"]["fc2"], "2."))
    expected = reference(to_torch(x)).detach().numpy()
    np.testing.assert_allclose(apply(module, variables, x), expected, atol=1e-5)


def test_mlp_drops_after_both_layers(normal, apply):
    # Both layers the identity: what survives both dropouts is gelu(x) / 0.75^2.
    width = 16
    identity = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    variables = {"params": {"fc1": identity, "fc2": identity}}
    x = 1 + jnp.abs(normal((8, 50, width)))
    module = Mlp(width, dropout=0.25)
    np.testing.assert_allclose(apply(module, variables, x), activate(x, "gelu"), rtol=1e-6)
    out = apply(module, variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(out == 0)
    expected = activate(x, "gelu") / 0.75**2
    np.testing.assert_allclose(out[~dropped], expected[~dropped], rtol=1e-5)
    rate = 1 - 0.75**2
    assert dropped.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / x.size))


def test_layer_scale_multiplies_each_channel(normal, apply):
    x, gamma = normal((2, 3, 5)), jnp.arange(5.0) - 2
    out = apply(LayerScale(), {"params": {"gamma": gamma}}, x)
    np.testing.assert_allclose(out, x * np.array([-2, -1, 0, 1, 2]), rtol=1e-6)


@pytest.mark.parametrize("value", [1e-5, 0.1])
def test_layer_scale_starts_at_its_initial_value(value):
    params = LayerScale(value).init(jax.random.key(0), jnp.zeros((1, 2, 5)))["params"]
    chex.assert_trees_all_close(params, {"gamma": jnp.full(5, value)}, rtol=1e-6)


def test_drop_path_does_nothing_at_rate_0_or_in_evaluation(normal, apply):
    # No key is given: nothing random may be asked for.
    x = normal((4, 3, 5))
    np.testing.assert_array_equal(apply(DropPath(0.0), {}, x, train=True), x)
    np.testing.assert_array_equal(apply(DropPath(0.9), {}, x), x)


@pytest.mark.parametrize("rate", [0.2, 0.75])
def test_drop_path_drops_whole_examples_and_keeps_the_mean(rate, normal, apply):
    x = 1 + jnp.abs(normal((2000, 3, 5)))
    out = apply(DropPath(rate), {}, x, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray((out == 0).all(axis=(1, 2)))
    np.testing.assert_allclose(out[~dropped], x[~dropped] / (1 - rate), rtol=1e-6)
    bound = 4 * np.sqrt(rate * (1 - rate) / len(x))
    assert dropped.mean() == pytest.approx(rate, abs=bound)
    # The examples that stay make up for those that do not.
    assert float((out / x).mean()) == pytest.approx(1, abs=bound / (1 - rate))


def test_drop_path_keeps_the_dtype(normal, apply):
    x = normal((4, 3, 5)).astype(jnp.bfloat16)
    out = apply(DropPath(0.5), {}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_traced_rate_of_drop_path_drops_as_a_known_one(dtype, normal):
    x = jnp.asarray(normal((50, 3, 5)), dtype)

    def drop(x, rate):
        return DropPath(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})

    @jax.jit
    def traced(x, rate):
        return jax.value_and_grad(lambda x: (drop(x, rate) ** 2).sum())(x), drop(x, rate)

    for rate in (0.0, 0.25, 0.4, 1.0):
        (_, gradient), out = traced(x, rate)
        assert out.dtype == dtype
        expected = drop(x, rate)
        np.testing.assert_array_equal(out == 0, expected == 0)
        np.testing.assert_allclose(*(np.float32(each) for each in (out, expected)), rtol=1e-6)
        assert np.isfinite(np.float32(gradient)).all()
        np.testing.assert_array_equal(gradient == 0, expected == 0)


@pytest.mark.parametrize(
    "module",
    [Dense(7), Mlp(50), LayerScale(0.5), LayerNorm(1e-6, "float32")],
    ids=lambda module: type(module).__name__,
)
def test_bfloat16_keeps_float32_parameters(module, random_variables, normal, apply):
    half = dataclasses.replace(module, dtype="bfloat16")
    x = normal((2, 7, 36))
    variables = random_variables(half, x)
    chex.assert_tree_all_finite(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    exact = apply(module, variables, x)
    out = apply(half, variables, x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - exact)
    assert 0 < error.max() < 0.03 * np.abs(exact).max()


def test_a_rate_of_one_drops_every_branch_and_its_gradient_is_zero():
    def total(x):
        return DropPath(1.0).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}).sum()

    value, gradient = jax.value_and_grad(total)(jnp.ones((4, 2, 3)))
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, np.zeros((4, 2, 3)))


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    x = jnp.ones((50, 40, 33))  # 33 is no multiple of the numbers in a word
    out = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(out == 0)
    spread = np.sqrt(rate * (1 - rate) / out.size)
    assert dropped.mean() == pytest.approx(rate, abs=4 * spread)
    # By the rate that 16 bits can hold, so that the mean is kept.
    np.testing.assert_allclose(out[~dropped], 1 / (1 - round(rate * 2**16) / 2**16), rtol=1e-6)
    # Neighbours are drawn from one word and yet independent.
    for axis in range(3):
        both = dropped & np.roll(dropped, 1, axis=axis)
        assert both.mean() == pytest.approx(rate**2, abs=6 * spread)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x), x)


def test_dropout_at_a_rate_of_one_leaves_nothing():
    out = Dropout(1.0).apply({}, jnp.ones((2, 3)), train=True)
    np.testing.assert_array_equal(out, 0)


def test_derivatives_of_gelu_and_layer_norm_equal_torch(torch, to_torch, normal):
    x, g = normal((4, 5, 36)), normal((4, 5, 36), seed=2)
    norm = LayerNorm(1e-5, "float32")
    params = {"params": {"scale": 1 + 0.3 * normal((36,), 3), "bias": normal((36,), 4)}}

    def ours(params, x):
        return activate(norm.apply(params, x), "gelu")

    gradients = jax.vjp(ours, params, jnp.asarray(x))[1](jnp.asarray(g))
    arrays = x, params["params"]["scale"], params["params"]["bias"]
    tensor, scale, bias = (to_torch(array).requires_grad_() for array in arrays)
    normed = torch.nn.functional.layer_norm(tensor, (36,), scale, bias, 1e-5)
    torch.nn.functional.gelu(normed).backward(to_torch(g))
    np.testing.assert_allclose(gradients[1], tensor.grad, atol=2e-6)
    np.testing.assert_allclose(gradients[0]["params"]["scale"], scale.grad, atol=1e-5)
    np.testing.assert_allclose(gradients[0]["params"]["bias"], bias.grad, atol=1e-5)
    # Forwards it is the same derivative.
    forwards = jax.jvp(lambda x: ours(params, x), (jnp.asarray(x),), (jnp.asarray(g),))[1]
    along = float((forwards * g).sum())
    assert along == pytest.approx(float((gradients[1] * g).sum()), rel=1e-4)
