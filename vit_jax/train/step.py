"""The two functions that run on the devices: one training step, and one batch of evaluation."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax.data.resident import Batch
from vit_jax.models import ViT
from vit_jax.ops.augment import AugmentConfig, augment, example_keys, normalise
from vit_jax.ops.losses import cross_entropy
from vit_jax.ops.metrics import Counts, count
from vit_jax.optim import ema_update, freeze_mask
from vit_jax.train.state import Params, TrainState

# Streams of randomness, each folded into the seed's key.
INIT, AUGMENT, DROPOUT = range(3)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step needs to know besides the state and the batch; fixed for a whole run."""

    model: ViT
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augment: AugmentConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    freeze: tuple[str, ...] = ()
    """As in `OptimConfig`; the optimiser has to be made with the same."""
    seed: int = 0


def train_step(
    state: TrainState, batch: Batch, recipe: Recipe, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of the weights, and the metrics of the batch before it.

    Under `jax.pmap` the batch is one device's share and `axis_name` names the axis to sum over.

    Returns:
      the next state, and loss (mean over the batch), correct and examples (counts),
      gradient_norm (global, of what is trained, before clipping) and learning_rate.
    """
    augment_key, dropout_key = (stream_key(recipe.seed, n, state.step) for n in (AUGMENT, DROPOUT))
    place = batch["place"]
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    images = augment(example_keys(augment_key, place), batch["image"], recipe.augment)
    images = normalise(images, recipe.mean, recipe.std)
    examples = _sum(batch["mask"].sum(), axis_name)
    frozen = freeze_mask(state.params, recipe.freeze)

    def loss_fn(params):
        # What is frozen has no gradient, so the compiler drops the part of the backward pass that
        # only leads to it.
        params = _choose(frozen, jax.lax.stop_gradient(params), params)
        rngs = {"dropout": dropout_key}
        logits = _logits(recipe.model, params, images, train=True, rngs=rngs)
        losses = cross_entropy(logits, batch["label"], recipe.label_smoothing)
        return (losses * batch["mask"]).sum() / examples, logits

    (loss, logits), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    gradients = _sum(gradients, axis_name)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    # The old arrays themselves: adding an update of 0 would turn -0.0 into 0.0.
    params = _choose(frozen, state.params, optax.apply_updates(state.params, updates))
    ema = state.ema
    if recipe.ema_decay is not None:
        ema = _choose(frozen, ema, ema_update(ema, params, recipe.ema_decay, state.step))

    correct = (logits.argmax(axis=1) == batch["label"]) * batch["mask"]
    metrics = {
        "loss": _sum(loss, axis_name),
        "correct": _sum(correct.sum(), axis_name),
        "examples": examples,
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(recipe.schedule(state.step), jnp.float32),
    }
    return TrainState(state.step + 1, params, opt_state, ema), metrics


def eval_step(params: Params, batch: Batch, recipe: Recipe, axis_name: str | None = None) -> Counts:
    """Loss and confusion matrix of a batch, summed; without augmentation, dropout or smoothing."""
    images = normalise(batch["image"], recipe.mean, recipe.std)
    logits = _logits(recipe.model, params, images)
    return _sum(count(logits, batch["label"], batch["mask"]), axis_name)


def stream_key(seed: int, stream: int, step: Any = 0) -> jax.Array:
    """The key of one use of randomness at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def _logits(model: ViT, params: Params, images: Array, **options: Any) -> Array:
    # Flax types `apply` for all its uses; without `mutable` it returns what the module does.
    return cast(Array, model.apply({"params": params}, images, **options))


def _choose(where: Params, one: Params, other: Params) -> Params:
    """Leaf by leaf, `one` where `where` is true, else `other`."""
    return jax.tree.map(lambda first, a, b: a if first else b, where, one, other)


def _sum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
