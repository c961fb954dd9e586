"""Muon on stacks of matrices: momentum whose singular values are all made about 1.

Source: K. Jordan, Muon (github.com/KellerJordan/Muon, 2024); the size of its updates by arXiv
2502.16982, section 2.2.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

UPDATE_RMS = 0.2
"""Of an update's numbers at learning rate 1: about that of AdamW's, so that both groups of
parameters share one learning rate (arXiv 2502.16982, section 2.2)."""


def scale_by_muon(momentum: float, parts: Callable[[str], int]) -> optax.GradientTransformation:
    """Gradients of matrices -> orthogonalised Nesterov momentum, of root mean square about 0.2.

    Matrices of one shape, or of its transpose, are orthogonalised together, as one stack: a model
    of equal layers takes two or three products of stacks per iteration, whatever its depth.

    Args:
      momentum: decay rate of the average of gradients; 0.95 in the source.
      parts: path, such as "block_0/attn/qkv/kernel" -> number of matrices that stand side by side
        in the parameter, as those of queries, keys and values do.
    """

    def of_stacks(tree):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), tree)

    # Not `optax.contrib.muon`, whose own AdamW for the other parameters decays none of them.
    muon = optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=of_stacks)

    def init(params):
        return muon.init(_stacks(params, parts))

    def update(updates, state, params=None):
        del params
        # Optax types trees for all their uses.
        directions, state = muon.update(cast(Any, _stacks(updates, parts)), state)
        return _unstacked(cast(Any, directions), updates, parts), state

    return optax.GradientTransformation(init, update)


def _stacks(tree: Any, parts: Callable[[str], int]) -> dict[str, jax.Array]:
    """[rows, columns] matrices by shape, rows <= columns: {"128x512": [stack, 128, 512], …}."""
    groups: dict[str, list[jax.Array]] = {}
    for leaf, number in _leaves(tree, parts):
        for matrix in jnp.split(leaf, number, axis=1):
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            groups.setdefault(_name(*wide.shape), []).append(wide)
    return {name: jnp.stack(matrices) for name, matrices in groups.items()}


def _unstacked(stacks: dict[str, jax.Array], like: Any, parts: Callable[[str], int]) -> Any:
    """The inverse of `_stacks`, scaled by sqrt(columns) as the root mean square asks for."""
    remaining = {name: iter(stack) for name, stack in stacks.items()}

    def one(rows: int, columns: int) -> jax.Array:
        wide = next(remaining[_name(*sorted((rows, columns)))])
        wide *= UPDATE_RMS * max(rows, columns) ** 0.5
        return wide if rows <= columns else wide.T

    leaves = [
        jnp.concatenate(
            [one(leaf.shape[0], leaf.shape[1] // number) for _ in range(number)], axis=1
        )
        for leaf, number in _leaves(like, parts)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaves(tree: Any, parts: Callable[[str], int]) -> Iterator[tuple[jax.Array, int]]:
    """Every parameter, and the number of matrices in it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        yield leaf, parts(name)


def _name(rows: int, columns: int) -> str:
    return f"{rows}x{columns}"
