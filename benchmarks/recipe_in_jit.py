"""The CIFAR recipe on whole batches, inside jit: what a training's step does before the model."""

import time
from collections.abc import Callable

import numpy as np
from per_image_recipe import MEAN, STD

BATCH = 1024


def recipe_in_jit(images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Img/s of resident images, with indices from the host and everything else in one program."""
    import jax

    from vit_jax import ViT
    from vit_jax.data.order import Order
    from vit_jax.data.resident import ResidentFeed
    from vit_jax.data.source import ArraySource
    from vit_jax.ops.augment import AugmentConfig
    from vit_jax.optim import OptimConfig, make_optimizer, make_schedule
    from vit_jax.sharding import make_mesh, replicated
    from vit_jax.train.step import Recipe, prepare

    names = tuple(map(str, range(10)))
    order = Order(len(images), BATCH, seed=0)
    sharding = replicated(make_mesh(jax.local_devices()[:1]))
    feed = ResidentFeed(ArraySource(images, labels, names, ""), order, sharding)
    schedule = make_schedule(OptimConfig(), 1, 1)
    recipe = Recipe(
        model=ViT(),
        optimizer=make_optimizer(OptimConfig(), schedule),
        schedule=schedule,
        augment=AugmentConfig(
            crop_padding=4,
            flip="alternating",
            policy="randaugment",
            erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
        ),
        mean=MEAN,
        std=STD,
        steps_per_epoch=order.steps_per_epoch,
        total_steps=10**6,
    )
    step = jax.jit(lambda resident, plan, n: prepare(feed.gather(resident, plan), recipe, n))

    def rate() -> float:
        mixed = None
        warm, number, began = 8, 40, 0.0  # as warm as the workers are after their first batches
        for n in range(warm + number):
            if n == warm:
                jax.block_until_ready(mixed)
                began = time.perf_counter()
            mixed = step(feed.resident, feed.plan(n), n)
        jax.block_until_ready(mixed)
        return number * BATCH / (time.perf_counter() - began)

    return rate
