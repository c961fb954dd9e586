"""Whether a checkpoint fits a training, and in words why not."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax

HINTS = {
    "head": "the classes of the data",
    "pos_embed": "model.image_size, data.image_size, model.patch_size or model.positions",
    "patch_embed": "model.patch_size, model.patch_kernel_size, model.shifted_patches, "
    "model.channels or model.width",
    "encoder": "model.width, model.depth, model.num_heads, model.mlp_dim or another of model's",
    "map_pool": "model.pool",
    "seq_pool": "model.pool",
    "opt_state": "the fields of optim",
    "ema": "optim.ema_decay or optim.ema_epochs",
}
"""What has probably changed where a part of the state does not fit."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, such as "params/head/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def describe_misfit(stored: Mapping[str, Any], like: Any) -> str | None:
    """Lines on the arrays that differ in name, shape or type; None where all are as in `like`.

    Args:
      stored: by path, what has a dtype and a shape.
      like: a pytree of such.
    """
    there = {name: _kind(array) for name, array in stored.items()}
    here = {name: _kind(leaf) for name, leaf in named_leaves(like).items()}
    missing = [name for name in here if name not in there]
    extra = [name for name in there if name not in here]
    lines = [
        *_few(
            f"{name} is {there[name]} there and {kind} here"
            for name, kind in here.items()
            if there.get(name, kind) != kind
        ),
        *_few(f"{name} is not there{_near(name, extra)}" for name in missing),
        *_few(f"{name} is there and not here" for name in extra),
    ]
    parts = {part for line in lines for part in line.split()[0].split("/")}
    if hints := [hint for part, hint in HINTS.items() if part in parts]:
        lines.append(f"perhaps another value of {'; '.join(hints)}")
    return "\n".join(f"  {line}" for line in lines) or None


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _few(lines: Iterable[str], most: int = 5) -> list[str]:
    lines = list(lines)
    rest = len(lines) - most
    return lines[:most] + ([f"and {rest} more like this"] if rest > 0 else [])


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; perhaps it is {near[0]} there" if near else ""
