import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import MapPool


def numpy_map_pool(params, x, num_heads, epsilon):
    """One query over all tokens, then a residual MLP; float64, one head at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(x, np.float64)

    def linear(name, x, params=params):
        return x @ params[name]["kernel"] + params[name]["bias"]

    width = x.shape[-1]
    query = linear("q", params["probe"][0, 0])
    key_value = linear("kv", x)
    key, value = key_value[..., :width], key_value[..., width:]
    heads, seen = [], []
    for own in np.split(np.arange(width), num_heads):
        weights = np.exp(key[..., own] @ query[own] / math.sqrt(width // num_heads))
        weights /= weights.sum(axis=1, keepdims=True)
        heads.append((weights[..., None] * value[..., own]).sum(axis=1))
        seen.append(weights)
    pooled = linear("proj", np.concatenate(heads, axis=-1))

    centred = pooled - pooled.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(pooled.var(axis=-1, keepdims=True) + epsilon)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    hidden = linear("fc1", normed, params["mlp"])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return pooled + linear("fc2", hidden, params["mlp"]), np.stack(seen, axis=1)


@pytest.mark.parametrize(
    ("num_heads", "mlp_dim", "norm_eps"), [(3, 50, 1e-6), (1, None, 0.1), (36, 7, 1e-6)]
)
def test_map_pool_equals_numpy(num_heads, mlp_dim, norm_eps, random_variables, normal, apply):
    module = MapPool(num_heads, mlp_dim=mlp_dim, norm_eps=norm_eps)
    x = normal((2, 7, 36))
    variables = random_variables(module, x)
    assert variables["params"]["mlp"]["fc1"]["kernel"].shape == (36, mlp_dim or 144)
    out, seen = apply(module, variables, x, mutable="intermediates")
    expected, weights = numpy_map_pool(variables["params"], x, num_heads, norm_eps)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    (shown,) = seen["intermediates"]["attention"]
    assert shown.shape == (2, num_heads, 1, 7)
    np.testing.assert_allclose(shown[:, :, 0], weights, atol=1e-6)


def test_map_pool_attends_as_torch_multihead_attention(
    torch, load, to_torch, torch_names, random_variables, normal, apply
):
    module = MapPool(num_heads=3, mlp_dim=8)
    x = normal((2, 7, 36))
    variables = random_variables(module, x)
    params = variables["params"]
    # A second layer of zeros leaves the attention alone.
    params["mlp"]["fc2"] = jax.tree.map(jnp.zeros_like, params["mlp"]["fc2"])
    fused = jax.tree.map(lambda *parts: jnp.concatenate(parts, -1), params["q"], params["kv"])
    reference = load(
        torch.nn.MultiheadAttention(36, 3, batch_first=True),
        torch_names.attention({"qkv": fused, "proj": params["proj"]}),
    )
    probe = to_torch(params["probe"]).expand(2, 1, 36)
    expected, _ = reference(probe, to_torch(x), to_torch(x))
    np.testing.assert_allclose(
        apply(module, variables, x), expected[:, 0].detach().numpy(), atol=1e-5
    )


def test_map_pool_does_not_depend_on_the_order_of_tokens(random_variables, normal, apply):
    module = MapPool(num_heads=3, mlp_dim=20)
    x = normal((2, 7, 36))
    variables = random_variables(module, x)
    shuffled = x[:, np.random.default_rng(0).permutation(7)]
    np.testing.assert_allclose(
        apply(module, variables, shuffled), apply(module, variables, x), atol=1e-5
    )


def test_map_pool_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=5 does not divide width=36") as error:
        MapPool(num_heads=5).init(jax.random.key(0), jnp.zeros((1, 2, 36)))
    assert "use one of [1, 2, 3, 4, 6, 9, 12, 18, 36] heads" in str(error.value)
