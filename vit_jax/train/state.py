"""The state of a training: everything that changes from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from vit_jax.models import ViT

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree; a step turns one into the next. Randomness and data follow from `step` alone."""

    # Pytrees of arrays, or of what jax puts in their place: shapes, shardings, tracers.
    step: Any
    """int32 [], steps done."""
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    """Moving average of the parameters; None when the config asks for none."""


def init_state(
    model: ViT,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    ema: bool,
    params: Params | None = None,
) -> TrainState:
    """The state before the first step, for images of shape (h, w, c).

    `params` are those to start from; None: the model's own initial values.
    """
    if params is None:
        params = model.init(key, jnp.zeros((1, *image_shape), jnp.float32))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # A copy: the state's buffers are donated, and no buffer may be donated twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


@jax.jit
def is_finite(state: TrainState) -> Bool[Array, ""]:
    """Whether weights, their average and the optimiser's moments hold neither NaN nor Inf."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]))
