import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.ops import attention
from vit_jax.ops.attention import attend, cudnn_takes

SHAPE = (2, 7, 3, 4)
SCALE = 0.6


def plain(query, key, value, kept):
    """The same, as the formula says it; JAX derives it."""
    logits = jnp.einsum("bqkh,bnkh->bkqn", query, key) * SCALE
    weights = jnp.exp(logits) / jnp.exp(logits).sum(axis=-1, keepdims=True)
    weights = weights if kept is None else weights * kept
    return jnp.einsum("bkqn,bnkh->bqkh", weights, value)


@pytest.fixture(params=["all kept", "some dropped"])
def arrays(request):
    """Query, key and value, and factors on the weights."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(3))
    dropped = jnp.asarray(rng.random((2, 3, 7, 7)) < 0.4, jnp.float32)
    return q, k, v, None if request.param == "all kept" else (1 - dropped) / 0.6


def test_the_value_and_all_derivatives_are_the_formula_s(arrays):
    *qkv, kept = arrays
    ours = functools.partial(attend, scale=SCALE, kept=kept)
    formula = functools.partial(plain, kept=kept)
    tangents = [jnp.roll(x, 1, axis=1) for x in qkv]
    out, moved = jax.jvp(ours, qkv, tangents)
    expected, expected_moved = jax.jvp(formula, qkv, tangents)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(moved, expected_moved, atol=1e-5)
    gradients, expected = (jax.vjp(f, *qkv)[1](tangents[0]) for f in (ours, formula))
    for one, other in zip(gradients, expected, strict=True):
        assert float(abs(other).max()) > 0.1
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_second_derivative_is_the_formula_s(arrays):
    *qkv, kept = arrays

    def slope(f):
        return jax.grad(lambda q: (jax.grad(lambda q: (f(q) ** 2).sum())(q) ** 2).sum())(qkv[0])

    ours = slope(lambda q: attend(q, *qkv[1:], scale=SCALE, kept=kept))
    expected = slope(lambda q: plain(q, *qkv[1:], kept))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * float(abs(expected).max()))


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((2, 197, 3, 64), "bfloat16", True),
        ((2, 197, 3, 64), "float32", False),
        ((2, 65, 3, 64), "bfloat16", False),
        ((2, 197, 3, 60), "bfloat16", False),
        ((2, 197, 3, 256), "bfloat16", False),
    ],
)
def test_cudnn_is_taken_where_it_can_be(shape, dtype, expected, monkeypatch):
    query = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    assert not cudnn_takes(query)  # on a CPU, never
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "cudnn", lambda query, key, value, scale: query)
    assert cudnn_takes(query) == expected


def test_what_cudnn_does_not_like_is_no_error(monkeypatch):
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    # jax looks for cuDNN, which is not here, and raises.
    assert not cudnn_takes(jax.ShapeDtypeStruct((2, 197, 3, 64), jnp.bfloat16))


@pytest.mark.parametrize("offset", [0.0, 4.0])
def test_gradients_in_bfloat16_are_as_exact_as_bfloat16(offset):
    """With an offset per channel, as biases make it, sums over keys are large and cancel."""
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.normal(size=(2, 96, 2, 16)).astype(np.float32) for _ in range(4))
    shift = offset * rng.normal(size=(3, 1, 1, 2, 16)).astype(np.float32)
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in (q, k + shift[0], v + shift[1], g + shift[2])]
    exact = [x.astype(jnp.float32) for x in arrays]
    ours = functools.partial(attend, scale=0.25)

    def formula(query, key, value):
        weights = jax.nn.softmax(jnp.einsum("bqkh,bnkh->bkqn", query, key) * 0.25, axis=-1)
        return jnp.einsum("bkqn,bnkh->bqkh", weights, value)

    gradients = jax.vjp(ours, *arrays[:3])[1](arrays[3])
    expected = jax.vjp(formula, *exact[:3])[1](exact[3])
    for one, other in zip(gradients, expected, strict=True):
        error = jnp.linalg.norm(one.astype(jnp.float32) - other) / jnp.linalg.norm(other)
        assert float(error) < 1e-2
