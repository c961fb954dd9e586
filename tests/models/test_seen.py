"""Attention weights out of the model, and the same logits whichever way attention is computed."""

import jax
import numpy as np
import pytest

from vit_jax import ViT
from vit_jax.models import look_inside, patch_maps
from vit_jax.ops.attention_maps import rollout

TINY = {"patch_size": 4, "width": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
TINY |= {"attention_method": "einsum"}  # the form in which the weights can be looked at
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 16, 3)).astype(np.float32)


def made(**fields):
    model = ViT(**(TINY | {"head_zero_init": False} | fields))
    variables = model.init(jax.random.key(0), IMAGES)
    # Weights large enough that attention is far from uniform.
    return model, jax.tree.map(lambda leaf: 2.0 * leaf, variables)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pool": "gap"},
        {"pool": "map", "num_registers": 3},
        {"pool": "none"},
        {"pool": "seq", "num_registers": 3},
        {"qk_norm": True, "head_dim": 5, "qk_scale": 0.3},
        {"rope": True, "norm": "rms", "pool": "gap"},
        {"num_classes": None, "layer_scale": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["auto", "einsum", "fused"])
def test_the_logits_are_the_same_with_and_without_a_look(fields, method):
    model, variables = made(**fields)
    out = model.apply(variables, IMAGES, method="features")
    seen = look_inside(model.clone(attention_method=method), variables, IMAGES)
    tokens = 12 + model.num_prefix_tokens
    assert seen.attention.shape == (3, 2, 2, tokens, tokens)
    np.testing.assert_allclose(seen.attention.sum(-1), 1, rtol=1e-5)
    assert seen.attention.max() > 2 / tokens  # not uniform, or equality would say little
    np.testing.assert_array_equal(seen.tokens, out["tokens"])
    np.testing.assert_array_equal(seen.pooled, out["pooled"])
    if model.num_classes is None:
        assert seen.logits is None
    else:
        np.testing.assert_array_equal(seen.logits, out["logits"])
    if model.pool in ("map", "seq"):
        assert seen.pool.shape == (2, 2 if model.pool == "map" else 1, tokens)
        np.testing.assert_allclose(seen.pool.sum(-1), 1, rtol=1e-5)
    else:
        assert seen.pool is None


@pytest.mark.parametrize("fields", [{}, {"qk_norm": True, "head_dim": 5, "qk_scale": 0.3}], ids=str)
@pytest.mark.parametrize("method", ["auto", "fused"])
def test_other_methods_give_the_same_numbers(fields, method):
    """Forward and gradients; the order of sums is all that differs."""
    model, variables = made(**fields)
    fused = model.clone(attention_method=method)
    np.testing.assert_allclose(
        fused.apply(variables, IMAGES), model.apply(variables, IMAGES), atol=1e-5
    )

    def loss(variables, model):
        return (model.apply(variables, IMAGES, train=True) ** 2).sum()

    ours, theirs = (jax.grad(loss)(variables, one) for one in (fused, model))
    # Of the largest gradient: that of a bias on the keys is 0 but for rounding. Each of the two is
    # up to 2e-5 from the same gradient in float64, depending on how XLA compiles the sums.
    scale = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(got / scale, expected / scale, atol=4e-5)


def test_fused_attention_is_another_program_but_for_dropout_on_the_weights():
    model, variables = made(attention_method="fused")
    plain, _ = made()

    def products(model, **options):
        return jax.jit(lambda v: model.apply(v, IMAGES, **options)).lower(variables).as_text()

    assert products(model) != products(plain)
    rngs = {"dropout": jax.random.key(1)}
    dropping = model.clone(attention_dropout=0.5), plain.clone(attention_dropout=0.5)
    first, second = (one.apply(variables, IMAGES, train=True, rngs=rngs) for one in dropping)
    np.testing.assert_array_equal(first, second)
    assert abs(np.asarray(first) - np.asarray(plain.apply(variables, IMAGES))).max() > 1e-3


def test_the_weights_are_those_of_the_images_order():
    model, variables = made()
    both = look_inside(model, variables, IMAGES).attention
    turned = look_inside(model, variables, IMAGES[::-1]).attention
    np.testing.assert_allclose(turned, both[:, ::-1], atol=1e-6)
    assert abs(np.asarray(both[:, 0]) - np.asarray(both[:, 1])).max() > 1e-3


def test_with_map_pooling_the_rollout_is_that_of_the_learned_query():
    model, variables = made(pool="map", num_registers=3)
    seen = look_inside(model, variables, IMAGES)
    _, through = patch_maps(model, seen, (3, 4))
    rolled = np.asarray(rollout(seen.attention))
    expected = np.asarray(seen.pool).mean(1)[:, None] @ rolled
    np.testing.assert_allclose(through.reshape(2, 12), expected[:, 0, 3:], atol=1e-6)
    _, patches = patch_maps(model, seen, (3, 4), "mean")
    np.testing.assert_allclose(patches.reshape(2, 12), rolled[:, 3:, 3:].mean(1), atol=1e-6)
