import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import SelfAttention
from vit_jax.models.attention import attention_weights


def numpy_attention(params, x, num_heads, scale):
    """Outputs and weights in float64, one head at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(x, np.float64)
    q, k, v = np.split(x @ params["qkv"]["kernel"] + params["qkv"].get("bias", 0), 3, axis=-1)
    head_dim = q.shape[-1] // num_heads
    heads, seen = [], []
    for i in range(num_heads):
        own = slice(i * head_dim, (i + 1) * head_dim)
        weights = np.exp(q[..., own] @ k[..., own].swapaxes(1, 2) * scale)
        weights /= weights.sum(axis=-1, keepdims=True)
        heads.append(weights @ v[..., own])
        seen.append(weights)
    out = np.concatenate(heads, axis=-1) @ params["proj"]["kernel"] + params["proj"]["bias"]
    return out, np.stack(seen, axis=1)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("width", "num_heads", "num_tokens"), [(36, 3, 7), (36, 9, 5), (20, 1, 1)])
def test_equals_torch_multihead_attention(
    width,
    num_heads,
    num_tokens,
    qkv_bias,
    torch,
    load,
    to_torch,
    torch_names,
    random_variables,
    normal,
    apply,
):
    module = SelfAttention(num_heads, qkv_bias=qkv_bias)
    x = normal((2, num_tokens, width))
    variables = random_variables(module, x)
    assert ("bias" in variables["params"]["qkv"]) == qkv_bias
    out, seen = apply(module, variables, x, mutable="intermediates")
    (weights,) = seen["intermediates"]["attention"]

    reference = load(
        torch.nn.MultiheadAttention(width, num_heads, batch_first=True),
        torch_names.attention(variables["params"]),
    )
    tensor = to_torch(x)
    expected, expected_weights = reference(tensor, tensor, tensor, average_attn_weights=False)
    np.testing.assert_allclose(out, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(weights, expected_weights.detach().numpy(), atol=1e-5)
    assert weights.shape == (2, num_heads, num_tokens, num_tokens)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_heads": 3, "head_dim": 8},
        {"num_heads": 5, "head_dim": 20},
        {"num_heads": 3, "qk_scale": 0.7},
        {"num_heads": 4, "head_dim": 3, "qk_scale": 1.5, "qkv_bias": False},
    ],
)
def test_head_dim_and_scale(fields, random_variables, normal, apply):
    module = SelfAttention(**fields)
    x = normal((2, 7, 36))
    variables = random_variables(module, x)
    out, seen = apply(module, variables, x, mutable="intermediates")
    head_dim = fields.get("head_dim", 36 // module.num_heads)
    scale = fields.get("qk_scale", head_dim**-0.5)
    assert variables["params"]["qkv"]["kernel"].shape == (36, 3 * module.num_heads * head_dim)
    expected, weights = numpy_attention(variables["params"], x, module.num_heads, scale)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(seen["intermediates"]["attention"][0], weights, atol=1e-6)


def test_nothing_is_kept_unless_asked_for(random_variables, normal, apply):
    x = normal((1, 4, 12))
    module = SelfAttention(3)
    out = apply(module, random_variables(module, x), x)
    assert isinstance(out, np.ndarray)  # and not a pair of outputs and weights


def test_softmax_is_float32_also_for_bfloat16(normal):
    # Logits near 100: bfloat16 would round them to multiples of 1/2.
    query, key = (jnp.asarray(10 * normal((2, 5, 3, 8), seed), jnp.bfloat16) for seed in (1, 2))
    weights = attention_weights(query, key, 0.5)
    exact = np.einsum("bqkh,bnkh->bkqn", np.asarray(query, np.float64), np.asarray(key, np.float64))
    expected = np.asarray(jax.nn.softmax(jnp.asarray(0.5 * exact, jnp.float32)))
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


def test_large_logits_do_not_overflow():
    query = jnp.full((1, 2, 1, 4), 1e4)
    weights = attention_weights(query, query, 1.0)
    np.testing.assert_array_equal(weights, np.full((1, 1, 2, 2), 0.5))


@pytest.fixture
def constant_attention():
    """A module and parameters whose weights are 1/n, and whose outputs are all 1."""
    num_tokens, width = 64, 16
    module = SelfAttention(num_heads=1)
    params = {
        "qkv": {
            "kernel": jnp.zeros((width, 3 * width)),
            "bias": jnp.concatenate([jnp.zeros(2 * width), jnp.ones(width)]),
        },
        "proj": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)},
    }
    x = jnp.zeros((8, num_tokens, width))
    np.testing.assert_allclose(module.apply({"params": params}, x), 1, rtol=1e-6)
    return module, {"params": params}, x


def test_attention_dropout_acts_on_the_weights(constant_attention, apply):
    module, variables, x = constant_attention
    module = dataclasses.replace(module, attention_dropout=0.25)
    num_tokens = x.shape[1]
    out, seen = apply(
        module,
        variables,
        x,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable="intermediates",
    )
    # Each output is the sum of the kept weights, each of them 1 / n / 0.75.
    kept = out * num_tokens * 0.75
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-4)
    np.testing.assert_array_less(kept.std(axis=-1), 1e-4)  # the same for every channel
    assert float(kept.mean()) == pytest.approx(0.75 * num_tokens, rel=0.02)
    spread = float(kept[..., 0].std())
    assert spread == pytest.approx(np.sqrt(num_tokens * 0.25 * 0.75), rel=0.1)
    # What is shown to the reader is the softmax, before dropout.
    np.testing.assert_allclose(seen["intermediates"]["attention"][0], 1 / num_tokens, rtol=1e-6)


def test_dropout_acts_after_the_projection(constant_attention, apply):
    module, variables, x = constant_attention
    # Were it before the projection, no output would be 0 because of this bias.
    variables["params"]["proj"]["bias"] += 1
    module = dataclasses.replace(module, dropout=0.25)
    out = apply(module, variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(out == 0)
    np.testing.assert_allclose(out[~dropped], 2 / 0.75, rtol=1e-5)
    assert dropped.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / out.size))


def test_dropout_needs_train(constant_attention, apply):
    module, variables, x = constant_attention
    noisy = dataclasses.replace(module, dropout=0.5, attention_dropout=0.5)
    expected = apply(module, variables, x)
    out = apply(noisy, variables, x, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(apply(noisy, variables, x), expected)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=4") as error:
        SelfAttention(num_heads=4).init(jax.random.key(0), jnp.zeros((1, 2, 30)))
    message = str(error.value)
    assert "num_heads=4 does not divide width=30" in message
    assert "use one of [1, 2, 3, 5, 6, 10, 15, 30] heads" in message
    assert "set head_dim" in message


def test_bfloat16_keeps_parameters_and_weights_in_float32(random_variables, normal, apply):
    x = normal((2, 7, 36))
    module = SelfAttention(num_heads=3)
    half = dataclasses.replace(module, dtype="bfloat16")
    initial = jax.eval_shape(half.init, jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}
    variables = random_variables(module, x)
    out, seen = apply(half, variables, x, mutable="intermediates")
    assert out.dtype == jnp.bfloat16
    assert seen["intermediates"]["attention"][0].dtype == jnp.float32
    exact = apply(module, variables, x)
    error = np.abs(np.asarray(out, np.float32) - exact)
    assert 0 < error.max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("rates", [(0.0, 0.5), (0.5, 0.0), (0.3, 0.4)], ids=str)
@pytest.mark.parametrize("method", ["auto", "fused"])
def test_what_is_dropped_does_not_depend_on_the_method(method, rates, random_variables, normal):
    dropped = dict(zip(("attention_dropout", "dropout"), rates, strict=True))
    module = SelfAttention(3, attention_method="einsum", **dropped)
    x = jnp.asarray(normal((2, 5, 36)))
    variables = random_variables(module, x)
    options = {"train": True, "rngs": {"dropout": jax.random.key(7)}}
    out = module.apply(variables, x, **options)
    other = module.clone(attention_method=method).apply(variables, x, **options)
    np.testing.assert_allclose(other, out, atol=1e-5)
    seen, _ = module.clone(attention_method=method).apply(
        variables, x, mutable="intermediates", **options
    )
    np.testing.assert_allclose(seen, out, atol=1e-5)
    assert abs(np.asarray(out - module.apply(variables, x))).max() > 1e-2
