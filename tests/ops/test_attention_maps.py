"""Maps of attention weights and rollout, against NumPy's loops over the paper's formulas."""

import jax
import numpy as np
import pytest

from vit_jax.ops.attention_maps import patch_map, query_weights, rollout

GRID = (2, 3)


def weights_of(*shape, tokens, seed=0):
    """Random attention weights: rows sum to 1."""
    raw = np.random.default_rng(seed).exponential(size=(*shape, tokens, tokens))
    return (raw / raw.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_query_is_a_row_of_the_weights(prefix):
    weights = weights_of(4, 2, 3, tokens=6 + prefix)
    mean = query_weights(weights, "mean", GRID)
    np.testing.assert_allclose(mean, weights[..., prefix:, :].mean(-2), rtol=1e-6)
    patch = query_weights(weights, (1, 2), GRID)
    np.testing.assert_array_equal(patch, weights[..., prefix + 5, :])
    np.testing.assert_array_equal(query_weights(weights, (0, 1), GRID), weights[..., prefix + 1, :])
    if prefix:
        np.testing.assert_array_equal(query_weights(weights, "class", GRID), weights[..., 0, :])
    np.testing.assert_allclose(mean.sum(-1), 1, rtol=1e-6)


def test_wrong_queries_say_what_there_is():
    with pytest.raises(ValueError, match="all tokens are patches; use 'mean' or"):
        query_weights(weights_of(tokens=6), "class", GRID)
    for query in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"patches go from \(0, 0\) to \(1, 2\)"):
            query_weights(weights_of(tokens=7), query, GRID)
    with pytest.raises(ValueError, match="6 patches, but there are 5 tokens"):
        query_weights(weights_of(tokens=5), "mean", GRID)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_map_holds_the_patches_row_by_row(prefix):
    weights = np.arange(2 * (6 + prefix), dtype=np.float32).reshape(2, -1)
    maps = patch_map(weights, GRID)
    assert maps.shape == (2, 2, 3)
    np.testing.assert_array_equal(maps[0], prefix + np.array([[0, 1, 2], [3, 4, 5]]))
    with pytest.raises(ValueError, match="6 patches, but there are 4 tokens"):
        patch_map(weights[:, :4], GRID)


def rollout_by_the_paper(weights):
    """A~(l_i) = A(l_i) A~(l_i-1) with A = 0.5 W_att + 0.5 I, for one image [l, k, n, n]."""
    tokens = weights.shape[-1]
    attention = None
    for layer in weights.astype(np.float64):
        mean = np.zeros((tokens, tokens))
        for head in layer:
            mean += head / len(layer)
        raw = 0.5 * mean + 0.5 * np.eye(tokens)
        attention = raw if attention is None else np.matmul(raw, attention)
    return attention


def test_rollout_is_the_papers_formula():
    weights = weights_of(4, 2, 3, tokens=7)
    found = rollout(weights)
    for image in range(2):
        np.testing.assert_allclose(found[image], rollout_by_the_paper(weights[:, image]), atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(rollout)(weights), found, atol=1e-7)


def test_rollout_of_layers_that_look_at_themselves_alone_is_the_identity():
    weights = np.broadcast_to(np.eye(5, dtype=np.float32), (3, 1, 2, 5, 5))
    np.testing.assert_array_equal(rollout(weights)[0], np.eye(5))


def test_the_order_of_the_layers_matters():
    weights = weights_of(2, 1, 1, tokens=4)
    assert abs(np.asarray(rollout(weights)) - np.asarray(rollout(weights[::-1]))).max() > 0.01
