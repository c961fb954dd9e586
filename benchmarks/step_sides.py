"""The sides of `train_step.py`, each made in a process of its own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from train_step import MATMUL_FLOPS, Case, made_up

from vit_jax.train.allocator import keep_freed_memory


@dataclasses.dataclass(frozen=True)
class Side:
    """Functions of nothing, for the clock around them."""

    logits: np.ndarray
    """Of the first images, in evaluation, with `shared_params`."""
    forward: Callable[[], Any]
    """The logits of a batch in evaluation."""
    step: Callable[[], Any]
    """One training step."""
    matmul: Callable[[], Any]
    """A product of two square matrices: what the machine can do."""
    wait: Callable[..., None]
    """Until the device has done what it was asked for."""


def make(name: str, case: Case) -> Side:
    return jax_side(name, case) if name in ("ours", "usual Flax") else pytorch_side(name, case)


def shared_params(case: Case) -> Any:
    """The same numbers for every side, none of them 0 but biases after attention (`usual_flax`)."""
    import jax

    model, size, _, _ = case.load()
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, size, size, 3), np.float32))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        value = 0.05 * rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "scale":
            value += 1
        return 0 * value if path[-1].key == "bias" and path[-2].key == "proj" else value

    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


def jax_side(name: str, case: Case) -> Side:
    if name == "ours":  # what `python train.py` begins with
        keep_freed_memory("auto")

    import jax
    import jax.numpy as jnp
    from usual_flax import UsualViT, usual_params

    from vit_jax.ops.augment import AugmentConfig
    from vit_jax.optim import make_optimizer, make_schedule
    from vit_jax.sharding import make_mesh, replicated
    from vit_jax.train.programs import compile_train_step
    from vit_jax.train.state import init_state
    from vit_jax.train.step import Recipe

    model, size, batch, optim = case.load()
    params = shared_params(case)
    if name == "usual Flax":
        params, model = usual_params(params, model), UsualViT(model)
    images, labels = made_up(case.load()[0], size, batch)
    schedule = make_schedule(optim, total_steps=1000, steps_per_epoch=100)
    optimizer = make_optimizer(optim, schedule)
    recipe = Recipe(
        model, optimizer, schedule, AugmentConfig(flip="none"), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    params = jax.tree.map(jnp.asarray, params)
    forward = jax.jit(lambda params, x: model.apply({"params": params}, x))
    x = jax.device_put(images)
    logits = forward(params, x[:8])

    class Feed:  # a batch that is there already
        sharding, crops_on_host = None, False
        gather = staticmethod(lambda resident, plan: plan)

    places = np.arange(batch, dtype=np.int32)
    plan = jax.device_put(
        {
            "image": x,
            "label": labels,
            "index": places,
            "place": places,
            "mask": np.ones(batch, "f4"),
        }
    )
    mesh = make_mesh(jax.local_devices()[:1])
    state = init_state(model, optimizer, jax.random.key(0), (size, size, 3), False, params)
    state = jax.device_put(state, replicated(mesh))  # or the second step would compile again
    compiled = compile_train_step(recipe, mesh, "auto", Feed())
    kept = {"state": state, "params": jax.tree.map(jnp.copy, params)}

    def step():
        kept["state"], metrics = compiled(kept["state"], (), plan)
        return metrics["loss"]

    side = round((MATMUL_FLOPS[case.rehearse] / 2) ** (1 / 3))
    square = jnp.ones((side, side), case.dtype)
    product = jax.jit(jnp.dot)
    return Side(
        np.asarray(logits, np.float32),
        lambda: forward(kept["params"], x),
        step,
        lambda: product(square, square),
        lambda *out: jax.block_until_ready(out),
    )


def pytorch_side(name: str, case: Case) -> Side:
    import torch
    from plain_pytorch import PlainViT, timm_vit, torch_side

    model, size, batch, optim = case.load()
    images, labels = made_up(model, size, batch)
    if name.startswith("timm"):
        module = timm_vit(case.shape)
    else:
        module = PlainViT(model, size)
        module.take(shared_params(case))
    compiled = name.endswith("compiled")
    forward, step, wait = torch_side(module, images, labels, optim, case.dtype, compiled)
    device = next(module.parameters()).device
    side = round((MATMUL_FLOPS[case.rehearse] / 2) ** (1 / 3))
    square = torch.ones(side, side, dtype=getattr(torch, case.dtype), device=device)
    logits = forward()[:8].float().cpu().numpy()
    return Side(logits, forward, step, lambda: square @ square, lambda *_: wait())
