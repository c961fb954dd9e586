"""The parameters of a stack of blocks as one tree, and back."""

import operator
from typing import Any

import jax
import jax.numpy as jnp


def stack_layers(params: dict[str, Any]) -> Any:
    """The parameters of all blocks in one tree: leaves [*shape] -> [depth, *shape].

    What `jax.lax.scan` and `jax.vmap` take. `unstack_layers` is the inverse, to the bit.

    Args:
      params: {"block_0": tree, "block_1": tree, …}, as an encoder's parameters are.

    Raises:
      ValueError: a number is missing, or blocks differ in the names, shapes or types of leaves.
    """
    names = [f"block_{i}" for i in range(len(params))]
    if not names or set(names) != set(params):
        raise ValueError(
            f"layers named {', '.join(sorted(params)) or 'nothing'}: expected block_0, block_1 and "
            "so on, without a gap"
        )
    first = _kinds(params["block_0"])
    for name in names:
        if differing := first.items() ^ _kinds(params[name]).items():
            leaf = min(path for path, _ in differing)
            raise ValueError(
                f"{name}/{leaf} is not as in block_0: only layers with the same names, shapes and "
                "types of parameters can be stacked"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in names))


def unstack_layers(stacked: Any) -> dict[str, Any]:
    """The inverse of `stack_layers`: leaves [depth, *shape] -> {"block_0": leaves [*shape], …}.

    Raises:
      ValueError: there are no leaves, or their first axes are of several lengths.
    """
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(stacked)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"the first axes of the leaves are {sorted(lengths)}: expected one length, the number "
            "of layers"
        )
    [(depth,)] = lengths
    return {f"block_{i}": jax.tree.map(operator.itemgetter(i), stacked) for i in range(depth)}


def _kinds(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each leaf, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
