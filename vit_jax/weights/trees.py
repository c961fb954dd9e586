"""Parameters as a tree, as a flat dictionary, and as shapes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models import ViT, abstract_params
from vit_jax.weights.layout import Params


def nested(params: Params) -> dict[str, Any]:
    """{"a/b": array} -> {"a": {"b": jax array}}; empties `params`, to hold no array twice."""
    tree: dict[str, Any] = {}
    for path in list(params):
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(params.pop(path))
    return tree


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": leaf}} -> {"a/b": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def parameter_shapes(model: ViT) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a model with image size and channels declared."""
    assert model.image_size is not None
    assert model.channels is not None
    tree = abstract_params(model, model.image_size, model.channels)
    return {path: leaf.shape for path, leaf in flat(tree).items()}
