"""One `OptimConfig` -> one optax chain."""

import dataclasses
from typing import Any, Literal

import jax
import optax

Params = Any


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its schedule and what is done to gradients and weights."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (arXiv 1711.05101), or sgd with momentum; both as in torch.optim."""
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
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov momentum, for sgd."""
    b1: float = 0.9
    """Decay rate of adamw's first moment."""
    b2: float = 0.999
    """Decay rate of adamw's second moment."""
    eps: float = 1e-8
    """Term in the denominator of adamw."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; longer ones are scaled down. None: no clipping."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the weights, evaluated beside them. None: none."""


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


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping, then AdamW or SGD with momentum, with `schedule` as learning rate."""
    mask = decay_mask if config.decay == "kernels" else None
    clip = optax.identity()
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
    if config.name == "adamw":
        update = optax.adamw(
            schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=mask
        )
    else:
        update = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(schedule, config.momentum, config.nesterov),
        )
    return optax.chain(clip, update)


def decay_mask(params: Params) -> Params:
    """True for kernels, False for biases, norms, tokens and positions: the usual mask for ViTs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )


def ema_update(ema: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """decay * ema + (1 - decay) * params, with a smaller decay, (1 + step) / (10 + step), early on.

    The smaller decay lets the average forget the initial weights, as in TensorFlow's
    ExponentialMovingAverage with `num_updates`.
    """
    keep = jax.numpy.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1 - keep) * (p - e), ema, params)
