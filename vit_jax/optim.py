"""One `OptimConfig` -> one optax chain."""

import dataclasses
import difflib
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from vit_jax.ops.muon import scale_by_muon

Params = Any

BACKBONE = "backbone"
"""In `OptimConfig.freeze`: every parameter but the head's."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its schedule and what is done to gradients and weights."""

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    """adamw (arXiv 1711.05101), or sgd with momentum, both as in torch.optim; or muon for the
    matrices of the blocks, usually with momentum 0.95, beside adamw for all else (2502.16982)."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up, down to `final_learning_rate`."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from 0 to its peak."""
    final_learning_rate: float = 0.0
    """Learning rate at the end of cosine and linear schedules."""
    weight_decay: float = 0.0
    """Factor on the weights at every step; usual are 0.01 to 0.1 for adamw, 1e-4 for sgd."""
    decay: Literal["kernels", "all"] = "kernels"
    """What is decayed: the kernels of Dense layers and patches, or every parameter."""
    momentum: float = 0.9
    """Momentum of sgd and muon."""
    nesterov: bool = False
    """Nesterov momentum, for sgd."""
    b1: float = 0.9
    """Decay rate of adamw's first moment, beside muon too."""
    b2: float = 0.999
    """Decay rate of adamw's second moment."""
    eps: float = 1e-8
    """Term in the denominator of adamw."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; longer ones are scaled down. None: no clipping."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the weights, evaluated beside them. None: none."""
    ema_epochs: float | None = None
    """The same average, by how many epochs it reaches back, whatever their steps: the decay is
    1 - 1 / (ema_epochs * steps of an epoch)."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by how their paths begin, such as patch_embed or
    encoder/block_0; backbone: all but the head, a linear probe."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer down from the head, usually 0.65 to 0.9. None: 1."""
    head_only_epochs: float = 0.0
    """Epochs at the start in which only the head is updated."""


def ema_decay(config: OptimConfig, steps_per_epoch: int) -> float | None:
    """Decay per step of the moving average of the weights; None: there is no average.

    Raises:
      ValueError: both fields say it.
    """
    if config.ema_epochs is None:
        return config.ema_decay
    if config.ema_decay is not None:
        raise ValueError(
            f"optim.ema_decay={config.ema_decay} and optim.ema_epochs={config.ema_epochs}: both "
            "say how far the average of the weights reaches back; set one of them"
        )
    return 1 - 1 / max(config.ema_epochs * steps_per_epoch, 1)


def make_schedule(config: OptimConfig, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """step -> learning rate. A training shorter than its warm-up ends as the rate still rises."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    peak, final = config.learning_rate, config.final_learning_rate
    rest = max(total_steps - warmup_steps, 1)
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(peak)
        case "linear":
            after = optax.linear_schedule(peak, final, rest)
        case "cosine":
            alpha = final / peak if peak else 0.0
            after = optax.cosine_decay_schedule(peak, rest, alpha)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule, steps_per_epoch: int | None = None
) -> optax.GradientTransformation:
    """Clipping, then AdamW, Muon or SGD with momentum, with `schedule` as learning rate.

    `freeze`, `layer_decay` and `head_only_epochs` wrap these; without them the state has the
    structure of the two alone. They, and Muon, read the names of `ViT`'s parameters.

    Args:
      steps_per_epoch: the unit of `config.head_only_epochs`, where that is above 0.

    Raises:
      ValueError: the fields contradict each other. `init` raises one where `freeze` names no
        parameter or leaves none to train.
    """
    clip = optax.identity()
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
    optimizer = optax.chain(clip, _update_rule(config, schedule))
    if config.freeze:
        # Around the clipping too: what is frozen has no part in the gradient's norm.
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            functools.partial(_freeze_labels, freeze=config.freeze),
        )
    # Outside the partition, because the depth is counted over all blocks, frozen ones too.
    if config.layer_decay is not None:
        optimizer = optax.chain(optimizer, scale_by_layer(config.layer_decay))
    # By the epochs, not the steps: the structure of the state must not depend on the data's size.
    if config.head_only_epochs:
        optimizer = optax.chain(optimizer, _head_only(config, steps_per_epoch))
    return optimizer


def _update_rule(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW, SGD with momentum, or Muon beside AdamW."""
    mask = decay_mask if config.decay == "kernels" else None
    if config.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(schedule, config.momentum, config.nesterov),
        )
    adamw = optax.adamw(
        schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=mask
    )
    if config.name == "adamw":
        return adamw
    muon = optax.chain(
        scale_by_muon(config.momentum, matrices_side_by_side),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.partition({"muon": muon, "adamw": adamw}, muon_labels)


def muon_labels(params: Params) -> Params:
    """ "muon" for the matrices of the blocks' Dense layers, "adamw" for every other parameter."""

    def label(path: str) -> str:
        return "muon" if path.startswith("encoder/") and path.endswith("/kernel") else "adamw"

    return jax.tree.map(label, _paths(params))


def matrices_side_by_side(path: str) -> int:
    """How many matrices stand side by side in a kernel: three in that of q, k and v."""
    return 3 if path.endswith("/qkv/kernel") else 1


def decay_mask(params: Params) -> Params:
    """True for kernels, False for biases, norms, tokens and positions: the usual mask for ViTs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )


def freeze_mask(params: Params, freeze: tuple[str, ...]) -> Params:
    """True for the parameters that `OptimConfig.freeze` names, False for those that are trained.

    Raises:
      ValueError: a name is the beginning of no parameter's path, or nothing is left to train.
    """
    paths = _paths(params)
    for name in freeze:
        if not any(_begins_with(path, name) for path in jax.tree.leaves(paths)):
            raise ValueError(_no_parameter(name, jax.tree.leaves(paths)))
    mask = jax.tree.map(lambda path: any(_begins_with(path, name) for name in freeze), paths)
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"optim.freeze={freeze} leaves no parameter to train: name fewer")
    return mask


def scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    """Multiply every update by its parameter's factor of `layer_factors`; has no state."""

    def scale(updates, params):
        del params
        return jax.tree.map(jnp.multiply, updates, layer_factors(updates, layer_decay))

    return optax.stateless(scale)


def layer_factors(params: Params, layer_decay: float) -> Params:
    """layer_decay ** (depth + 1 - layer) per parameter: the lower the layer, the smaller the step.

    Layer 0 makes the tokens (patches, class token, registers, positions), layer i + 1 is block i,
    and layer depth + 1, whose factor is 1, what follows the blocks. Source: BEiT, arXiv 2106.08254,
    appendix on fine-tuning; before it ELECTRA, arXiv 2003.10555, appendix B.

    Raises:
      ValueError: a parameter that is none of `ViT`'s, so that its layer is not known.
    """
    paths = _paths(params)
    blocks = {path.split("/")[1] for path in jax.tree.leaves(paths) if path.startswith("encoder/")}
    top = len(blocks) + 1
    return jax.tree.map(lambda path: layer_decay ** (top - _layer(path, top)), paths)


def ema_update(ema: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """decay * ema + (1 - decay) * params, with a smaller decay, (1 + step) / (10 + step), early on.

    The smaller decay lets the average forget the initial weights, as in TensorFlow's
    ExponentialMovingAverage with `num_updates`.
    """
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1 - keep) * (p - e), ema, params)


def _head_only(config: OptimConfig, steps_per_epoch: int | None) -> optax.GradientTransformation:
    """Multiply the backbone's updates by 0 for `head_only_epochs`, then by 1.

    Its moments go on accumulating meanwhile. AdamW corrects the bias of all moments by one count of
    steps; had the backbone's been held at zero, that count would take them for settled, and after
    some thousand steps its first update would be (1 - b1) / sqrt(1 - b2), about 3, times too large.
    """
    if steps_per_epoch is None:
        raise ValueError(
            f"optim.head_only_epochs={config.head_only_epochs} needs steps_per_epoch, the number "
            "of steps that make an epoch"
        )
    if any(name.split("/")[0] == "head" for name in config.freeze):
        raise ValueError(
            f"optim.head_only_epochs={config.head_only_epochs} trains the head alone, but "
            f"optim.freeze={config.freeze} keeps it as it is: drop one of the two"
        )
    steps = round(config.head_only_epochs * steps_per_epoch)
    off, on = optax.constant_schedule(0.0), optax.constant_schedule(1.0)
    return optax.masked(
        optax.scale_by_schedule(optax.join_schedules([off, on], [steps])),
        functools.partial(freeze_mask, freeze=(BACKBONE,)),
    )


def _freeze_labels(params: Params, freeze: tuple[str, ...]) -> Params:
    mask = freeze_mask(params, freeze)
    return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", mask)


def _layer(path: str, top: int) -> int:
    match path.split("/"):
        case ["patch_embed" | "cls_token" | "register_tokens" | "pos_embed", *_]:
            return 0
        case ["encoder", block, *_]:
            return int(block.removeprefix("block_")) + 1
        case ["norm" | "map_pool" | "seq_pool" | "representation" | "head", *_]:
            return top
    raise ValueError(f"optim.layer_decay: the layer of {path!r} is not known, as it is no ViT's")


def _paths(params: Params) -> Params:
    """The path of every parameter, such as "encoder/block_0/mlp/fc1/kernel", in its place."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def _begins_with(path: str, name: str) -> bool:
    """Whether whole components at the beginning of `path` make `name`."""
    if name == BACKBONE:
        return not _begins_with(path, "head")
    return path == name or path.startswith(f"{name}/")


def _no_parameter(name: str, paths: list[str]) -> str:
    """What to say of a name in `freeze` that matches nothing: near names, and what there is."""
    beginnings = {
        "/".join(components[:length])
        for components in (path.split("/") for path in paths)
        for length in range(1, len(components) + 1)
    }
    near = difflib.get_close_matches(name, beginnings, n=3)
    hint = f"perhaps {' or '.join(near)}; " if near else ""
    # A parameter's own name says little, and there are hundreds: blocks and whole parts will do.
    parts = sorted(part for part in beginnings if part.count("/") <= part.startswith("encoder/"))
    return (
        f"optim.freeze: no parameter's path begins with {name!r}: {hint}there are "
        f"{', '.join([BACKBONE, *parts])}"
    )
