"""The programs that a training runs on its devices: a step, several steps in one, an evaluation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax.data.feeds import Feed
from vit_jax.ops.test_time import TestTime
from vit_jax.processes import meet
from vit_jax.sharding import Parallel, Parallelised, data_parallel, replicated
from vit_jax.train.state import TrainState
from vit_jax.train.step import Recipe, eval_step, train_step

TrainProgram = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
"""(state, resident, plan) -> (next state, metrics)"""

STOP = "stop"


def compile_train_step(
    recipe: Recipe,
    mesh: Mesh,
    parallel: Parallel,
    feed: Feed,
    sharding: Any = None,
    several: bool = False,
) -> Parallelised:
    """(state, resident, plan) -> (next state, metrics); the old state's buffers are reused.

    Where the plan says under `STOP`, in each row, which signal its process has got, or 0, the
    metrics say the largest: so all processes know of it at the same step, at no cost.

    Args:
      feed: `resident` and `plan` are its own, or those of another of its kind.
      sharding: of the state; None where every device holds it whole.
      several: do one step after the other in one call, for plans that are `side_by_side`; each of
        the metrics then has an axis of steps. A tiny model's step takes no longer than its
        dispatch, and this saves the latter.
    """
    recipe = on_device(recipe, feed)

    def step(state, resident, plan, axis_name=None):
        following, metrics = train_step(state, feed.gather(resident, plan), recipe, axis_name)
        if STOP in plan:
            metrics[STOP] = plan[STOP].max()
        return following, metrics

    def steps(state, resident, plans, axis_name=None):
        plans = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), plans)
        return jax.lax.scan(
            lambda state, plan: step(state, resident, plan, axis_name), state, plans
        )

    return data_parallel(
        steps if several else step,
        mesh,
        parallel,
        donate=True,
        resident=feed.sharding,
        state=sharding,
        results=None if sharding is None else (sharding, replicated(mesh)),
        meet=meet,
    )


def side_by_side(plans: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The plans of steps as one: arrays [b, …] become [b, steps, …].

    Examples stay the first axis, which is the one that devices share.
    """
    return {name: np.stack([plan[name] for plan in plans], axis=1) for name in plans[0]}


def on_device(recipe: Recipe, feed: Feed) -> Recipe:
    """The recipe without what the feed does on the host already."""
    if not feed.crops_on_host:
        return recipe
    augment = dataclasses.replace(recipe.augment, crop_area=None)
    return dataclasses.replace(recipe, augment=augment)


def compile_eval_step(
    recipe: Recipe,
    mesh: Mesh,
    parallel: Parallel,
    feed: Feed,
    test_time: TestTime = "none",
    sharding: Any = None,
) -> Callable[..., Any]:
    """(params, resident, plan) -> counts; the arguments as for the training step, `sharding` that
    of the parameters."""

    def step(params, resident, plan, axis_name=None):
        return eval_step(params, feed.gather(resident, plan), recipe, axis_name, test_time)

    return data_parallel(step, mesh, parallel, resident=feed.sharding, state=sharding, meet=meet)
