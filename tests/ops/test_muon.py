"""Muon's updates: against its own iteration in float64, and matrix by matrix against optax."""

import jax
import numpy as np
import optax
import pytest

from vit_jax.ops.muon import scale_by_muon

SHAPES = {"qkv": (16, 48), "proj": (16, 16), "fc1": (16, 40), "fc2": (40, 16)}
PARTS = {"qkv": 3}


def parts(path):
    return PARTS.get(path.split("/")[-1], 1)


def gradients(steps):
    rng = np.random.default_rng(0)
    return [
        {
            block: {
                name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()
            }
            for block in ("block_0", "block_1")
        }
        for _ in range(steps)
    ]


def updates_of(optimizer, given):
    state = optimizer.init(given[0])
    update, found = jax.jit(optimizer.update), []
    for gradient in given:
        updates, state = update(gradient, state)
        found.append(jax.tree.map(np.asarray, updates))
    return found


def newton_schulz(x):
    """Five quintic iterations in float64, of the published coefficients."""
    x = x.astype(np.float64)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / np.linalg.norm(wide)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def test_first_update_is_the_orthogonalised_gradient():
    (given,) = gradients(1)
    (found,) = updates_of(scale_by_muon(0.95, parts), [given])
    for block, matrices in given.items():
        for name, gradient in matrices.items():
            pieces = np.split(gradient, PARTS.get(name, 1), axis=1)
            expected = [0.2 * max(p.shape) ** 0.5 * newton_schulz(p) for p in pieces]
            np.testing.assert_allclose(
                found[block][name], np.concatenate(expected, axis=1), atol=2e-5
            )


def test_stacked_updates_equal_those_of_each_matrix_alone():
    given = gradients(4)
    found = updates_of(scale_by_muon(0.9, parts), given)
    alone = optax.contrib.scale_by_muon(
        beta=0.9,
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda _: optax.contrib.MuonDimensionNumbers(), tree
        ),
    )

    def apart(tree):
        return {
            f"{block}/{name}/{i}": piece
            for block, matrices in tree.items()
            for name, matrix in matrices.items()
            for i, piece in enumerate(np.split(np.asarray(matrix), PARTS.get(name, 1), axis=1))
        }

    expected = updates_of(alone, [apart(gradient) for gradient in given])
    for ours, theirs in zip(found, expected, strict=True):
        for path, piece in apart(ours).items():
            scaled = 0.2 * max(piece.shape) ** 0.5 * theirs[path]
            np.testing.assert_allclose(piece, scaled, atol=2e-5, err_msg=path)


def test_updates_are_near_orthogonal_and_of_the_size_of_adamws():
    found = updates_of(scale_by_muon(0.95, parts), gradients(3))[-1]
    for matrix in found["block_1"].values():
        for piece in np.split(matrix, 3, axis=1) if matrix.shape == (16, 48) else [matrix]:
            values = np.linalg.svd(piece, compute_uv=False) / (0.2 * max(piece.shape) ** 0.5)
            # Five iterations lift all but the smallest singular value of a square.
            assert 0.6 < values[-2] <= values[0] < 1.3
            assert np.sqrt((piece**2).mean()) == pytest.approx(0.2, rel=0.2)


def test_size_of_the_gradient_does_not_matter():
    (given,) = gradients(1)
    small, large = (
        updates_of(scale_by_muon(0.95, parts), [jax.tree.map(lambda g, f=f: f * g, given)])[0]
        for f in (1e-3, 1e3)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), small, large)


def test_stacks_do_not_grow_in_number_with_the_depth():
    given = gradients(1)[0]
    for blocks in (given, given | {f"block_{i}": given["block_0"] for i in range(2, 6)}):
        momentum = scale_by_muon(0.95, parts).init(blocks).mu
        assert {name: stack.shape[1:] for name, stack in momentum.items()} == {
            "16x16": (16, 16),
            "16x40": (16, 40),
        }
        assert momentum["16x16"].shape[0] == 4 * len(blocks)
        assert momentum["16x40"].shape[0] == 2 * len(blocks)
