"""The two functions that run on the devices: one training step, and one batch of evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax.data.resident import Batch
from vit_jax.models import ViT
from vit_jax.ops.augment import (
    AugmentConfig,
    alternating,
    augment,
    erase_and_mix,
    example_keys,
    normalise,
)
from vit_jax.ops.losses import cross_entropy, mixed_cross_entropy
from vit_jax.ops.metrics import Counts, count
from vit_jax.ops.mixing import Mixed
from vit_jax.ops.test_time import TestTime, average_over_views
from vit_jax.optim import ema_update, freeze_mask
from vit_jax.train.state import Params, TrainState

# Streams of randomness, each folded into the seed's key.
INIT, AUGMENT, DROPOUT, FLIP = range(4)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step needs to know besides the state and the batch; fixed for a whole run."""

    model: ViT
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augment: AugmentConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps_per_epoch: int = 1
    total_steps: int = 1
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    freeze: tuple[str, ...] = ()
    """As in `OptimConfig`; the optimiser has to be made with the same."""
    seed: int = 0
    accumulate_steps: int = 1
    """Parts of a batch whose gradients are computed one after the other and summed."""
    skip_not_finite: bool = False
    """Leave out the update of a batch whose loss or gradient norm is not finite. The optimiser's
    count stands still then, and with it the learning rate it uses."""


def train_step(
    state: TrainState, batch: Batch, recipe: Recipe, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of the weights, and the metrics of the batch before it.

    Under `jax.pmap` the batch is one device's share and `axis_name` names the axis to sum over.

    With `recipe.accumulate_steps` the update is that of the whole batch, up to the order of sums.
    Dropout and drop-path draw their masks per part, and under pmap per device: with them the
    updates are equal in distribution only.

    Returns:
      the next state, and loss (mean over the batch), correct and examples (counts; of a mixed image
      the label with the larger share is the right one),
      gradient_norm (global, of what is trained, before clipping) and learning_rate.
    """
    dropout_key = stream_key(recipe.seed, DROPOUT, state.step)
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    # Of the whole batch: mixing pairs neighbours, which would end up in different parts.
    mixed = prepare(batch, recipe, state.step)
    examples = _sum(batch["mask"].sum(), axis_name)
    # A batch may hold nothing but files without a picture.
    divisor = jnp.maximum(examples, 1)
    frozen = freeze_mask(state.params, recipe.freeze)

    def loss_fn(params, part, dropout_key):
        # What is frozen has no gradient, so the compiler drops the part of the backward pass that
        # only leads to it.
        params = _choose(frozen, jax.lax.stop_gradient(params), params)
        mixed, mask = part
        rngs = {"dropout": dropout_key}
        logits = _logits(recipe.model, params, mixed.images, train=True, rngs=rngs)
        losses = _losses(logits, mixed, recipe)
        # The divisor is the whole batch's: parts may hold unequal numbers of real examples.
        return (losses * mask).sum() / divisor, _correct(logits, mixed, mask)

    differentiate = jax.value_and_grad(loss_fn, has_aux=True)
    part, parts = (mixed, batch["mask"]), recipe.accumulate_steps
    if parts == 1:
        results = differentiate(state.params, part, dropout_key)
    else:
        results = _sum_over_parts(differentiate, state.params, part, dropout_key, parts)
    (loss, correct), gradients = _sum(results, axis_name)
    metrics = {
        "loss": loss,
        "correct": correct,
        "examples": examples,
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(recipe.schedule(state.step), jnp.float32),
    }
    following = _updated(state, gradients, frozen, recipe)
    if recipe.skip_not_finite:
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
        unchanged = dataclasses.replace(state, step=following.step)
        following = jax.tree.map(lambda a, b: jnp.where(finite, a, b), following, unchanged)
    return following, metrics


def _updated(state: TrainState, gradients: Params, frozen: Params, recipe: Recipe) -> TrainState:
    """The state after the optimiser's update."""
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    # The old arrays themselves: adding an update of 0 would turn -0.0 into 0.0.
    params = _choose(frozen, state.params, optax.apply_updates(state.params, updates))
    ema = state.ema
    if recipe.ema_decay is not None:
        ema = _choose(frozen, ema, ema_update(ema, params, recipe.ema_decay, state.step))
    return TrainState(state.step + 1, params, opt_state, ema)


def _sum_over_parts(
    differentiate: Callable[..., Any], params: Params, batch: Any, key: jax.Array, parts: int
) -> Any:
    """The sum of `differentiate(params, part, key of the part)` over the parts of a batch.

    Example i is in part i % parts: so a device that holds a run of neighbours holds as much of
    every part, and nothing is sent among devices.

    Args:
      differentiate: -> ((loss, correct), gradients), as `jax.value_and_grad` returns them.
      batch: a pytree of arrays [b, …], b a multiple of `parts`.
    """

    def add(total, number):
        part = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(
                x.reshape(-1, parts, *x.shape[1:]), number, axis=1, keepdims=False
            ),
            batch,
        )
        result = differentiate(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, result), None

    zero = jnp.zeros((), jnp.float32)
    zeros = (zero, zero), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, jnp.arange(parts))[0]


def prepare(batch: Batch, recipe: Recipe, step: Any) -> Mixed:
    """The images of a training step as the model sees them: augmented, normalised, mixed."""
    config = recipe.augment
    keys = example_keys(stream_key(recipe.seed, AUGMENT, step), batch["place"])
    mirror = None
    if config.flip == "alternating":
        first = example_keys(stream_key(recipe.seed, FLIP), batch["index"])
        mirror = alternating(first, step // recipe.steps_per_epoch)
    images = augment(keys, batch["image"], config, recipe.mean, mirror)
    images = normalise(images, recipe.mean, recipe.std)
    mixing_steps = recipe.total_steps - round(config.mix_off_epochs * recipe.steps_per_epoch)
    mixing = step < mixing_steps
    return erase_and_mix(keys, images, batch["label"], batch["mask"], config, mixing)


def eval_step(
    params: Params,
    batch: Batch,
    recipe: Recipe,
    axis_name: str | None = None,
    test_time: TestTime = "none",
) -> Counts:
    """The counts of a batch, summed; without augmentation (but `test_time`), dropout, smoothing."""
    images = normalise(batch["image"], recipe.mean, recipe.std)
    model = functools.partial(_logits, recipe.model, params)
    logits = average_over_views(model, images, test_time)
    return _sum(count(logits, batch["label"], batch["mask"]), axis_name)


def stream_key(seed: int, stream: int, step: Any = 0) -> jax.Array:
    """The key of one use of randomness at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def _logits(model: ViT, params: Params, images: Array, **options: Any) -> Array:
    # Flax types `apply` for all its uses; without `mutable` it returns what the module does.
    return cast(Array, model.apply({"params": params}, images, **options))


def _losses(logits: Array, mixed: Mixed, recipe: Recipe) -> Float[Array, "b"]:
    if not recipe.augment.mixes:
        return cross_entropy(logits, mixed.labels, recipe.label_smoothing)
    labels = mixed.labels, mixed.partner_labels, mixed.weight
    return mixed_cross_entropy(logits, *labels, recipe.label_smoothing)


def _correct(logits: Array, mixed: Mixed, mask: Array) -> Float[Array, ""]:
    """How many predictions are right."""
    largest = jnp.where(mixed.weight >= 0.5, mixed.labels, mixed.partner_labels)
    return ((logits.argmax(axis=1) == largest) * mask).sum()


def _choose(where: Params, one: Params, other: Params) -> Params:
    """Leaf by leaf, `one` where `where` is true, else `other`."""
    return jax.tree.map(lambda first, a, b: a if first else b, where, one, other)


def _sum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
