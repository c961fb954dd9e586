"""From a config to everything a training needs, before the first step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax.config import Config, ConfigError, check_ranges
from vit_jax.data.catalog import open_source
from vit_jax.data.resident import ResidentFeed, gather
from vit_jax.data.source import ArraySource, channel_statistics, check_classes
from vit_jax.models import ViT, parameter_count
from vit_jax.models.patches import pair
from vit_jax.ops.metrics import Counts
from vit_jax.optim import make_optimizer, make_schedule
from vit_jax.sharding import (
    Parallel,
    check_batch,
    data_parallel,
    make_mesh,
    replicated,
    select_devices,
)
from vit_jax.train.start import open_start
from vit_jax.train.state import TrainState, init_state
from vit_jax.train.step import INIT, Recipe, eval_step, stream_key, train_step
from vit_jax.weights.adapt import resize_statistics
from vit_jax.weights.layout import Preprocessing


@dataclasses.dataclass(frozen=True)
class Job:
    """A training ready to start."""

    began: float
    """When setting up began, by `time.perf_counter`."""
    config: Config
    """With everything filled in that follows from data and devices."""
    class_names: tuple[str, ...]
    fingerprints: dict[str, str]
    train_feed: ResidentFeed
    eval_feed: ResidentFeed | None
    test_feed: ResidentFeed | None
    total_steps: int
    devices: list[jax.Device]
    sharding: jax.sharding.Sharding
    """Of the state: every device holds it whole."""
    changes: tuple[str, ...]
    """What was done to pretrained weights to make them fit, a line each."""
    state_shapes: TrainState
    """The state as shapes and dtypes."""
    initial_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[[Any, Any, Any], Counts]

    @property
    def steps_per_epoch(self) -> int:
        return self.train_feed.steps_per_epoch

    @property
    def epochs(self) -> float:
        return self.total_steps / self.steps_per_epoch

    @functools.cached_property
    def parameters(self) -> int:
        height, width, channels = input_shape(self.config.model)
        return parameter_count(self.config.model, (height, width), channels)

    def is_due(self, done: int, every_epochs: float) -> bool:
        """Whether what is done every so many epochs, and at the end, is due after `done` steps."""
        return done == self.total_steps or done % self.steps_of(every_epochs) == 0

    def steps_of(self, epochs: float) -> int:
        """The number of steps, at least one, nearest to a number of epochs."""
        return max(1, round(epochs * self.steps_per_epoch))


def set_up(config: Config, overridden: Sequence[str] = (), stored: Config | None = None) -> Job:
    """Open the data, choose the devices, build model and optimiser, compile nothing yet.

    Args:
      overridden: dotted names of fields that stand above pretrained weights' even at their default.
      stored: the filled-in config of the run that is to go on, whose weights are in a checkpoint;
        pretrained weights are not opened again.

    Raises:
      ConfigError, DataError, DeviceError, ValueError: what the config asks for cannot be had; the
        message names the field and what would be right.
    """
    began = time.perf_counter()
    check_ranges(config)
    devices = select_devices(config.device)
    mesh = make_mesh(devices)
    check_batch(config.batch_size, mesh)
    start = open_start(config, overridden, stored)
    if start:
        config = start.config
    splits = _open_splits(config)
    train = splits["train"]
    config = _fill_in(config, train, devices[0].platform, start.pixels if start else None)
    params, changes = start.read(config, train.class_names) if start else (None, ())

    sharding = replicated(mesh)
    feeds = _make_feeds(config, splits, sharding)
    steps_per_epoch = feeds["train"].steps_per_epoch
    total_steps = config.steps or max(1, round((config.epochs or 0) * steps_per_epoch))
    recipe = make_recipe(config, total_steps, steps_per_epoch)
    initial_state = functools.partial(
        init_state,
        recipe.model,
        recipe.optimizer,
        image_shape=train.images.shape[1:],
        ema=recipe.ema_decay is not None,
    )
    key = stream_key(config.seed, INIT)
    # A wrong shape is an error here, not after minutes of compiling.
    shapes = jax.eval_shape(initial_state, key)

    return Job(
        began=began,
        config=config,
        class_names=train.class_names,
        fingerprints={name: source.fingerprint for name, source in splits.items()},
        train_feed=feeds["train"],
        eval_feed=feeds.get("eval"),
        test_feed=feeds.get("test"),
        total_steps=total_steps,
        devices=devices,
        sharding=sharding,
        changes=changes,
        state_shapes=shapes,
        initial_state=lambda: jax.jit(initial_state, out_shardings=sharding)(key, params=params),
        train_step=compile_train_step(recipe, mesh, config.parallel),
        eval_step=compile_eval_step(recipe, mesh, config.parallel),
    )


def compile_train_step(recipe: Recipe, mesh: Mesh, parallel: Parallel) -> Callable[..., Any]:
    """(state, resident, plan) -> (next state, metrics); the old state's buffers are reused."""

    def step(state, resident, plan, axis_name=None):
        return train_step(state, gather(resident, plan), recipe, axis_name)

    return data_parallel(step, mesh, parallel, donate=True)


def compile_eval_step(recipe: Recipe, mesh: Mesh, parallel: Parallel) -> Callable[..., Any]:
    """(params, resident, plan) -> counts."""

    def step(params, resident, plan, axis_name=None):
        return eval_step(params, gather(resident, plan), recipe, axis_name)

    return data_parallel(step, mesh, parallel)


def _make_feeds(
    config: Config, splits: dict[str, ArraySource], sharding: jax.sharding.Sharding
) -> dict[str, ResidentFeed]:
    """One feed a split; that of "train" is shuffled."""
    seeds = {"train": config.seed}
    return {
        use: ResidentFeed(source, config.batch_size, sharding, seeds.get(use))
        for use, source in splits.items()
    }


def _open_splits(config: Config) -> dict[str, ArraySource]:
    """The splits that the config names, by use: "train", and "eval" and "test" where wanted."""
    data = config.data
    names = {"train": data.train_split, "eval": data.eval_split, "test": data.test_split}
    splits = {use: open_source(data, split) for use, split in names.items() if split}
    if "train" not in splits:
        raise ConfigError("data.train_split is empty: name the images to train on")
    check_classes(list(splits.values()))
    return splits


def _fill_in(
    config: Config, train: ArraySource, platform: str, pixels: Preprocessing | None
) -> Config:
    """The config with what follows from the data (shapes, classes, statistics) and the devices.

    The statistics are those of pretrained weights, `pixels`, where there are any.
    """
    model, data = config.model, config.data
    _, height, width, channels = train.images.shape
    classes = len(train.class_names)
    if model.num_classes not in (None, classes):
        raise ConfigError(
            f"model.num_classes={model.num_classes}, but {data.name} has {classes} classes: leave "
            "it out, it follows from the data"
        )
    if model.dtype is not None and config.dtype not in ("auto", model.dtype):
        raise ConfigError(
            f"dtype={config.dtype} and model.dtype={model.dtype}: set dtype alone, the model's "
            "follows from it"
        )
    mean, std = data.mean, data.std
    if mean is None or std is None:
        if pixels is None:
            statistics = channel_statistics(train.images)
        else:
            statistics = [resize_statistics(x, channels) for x in (pixels.mean, pixels.std)]
        mean, std = mean or statistics[0], std or statistics[1]
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ConfigError(
            f"data.mean={mean}, data.std={std}: the images have {channels} channels, so each needs "
            f"{channels} numbers, and those of std above 0"
        )
    dtype = model.dtype or config.dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    model = dataclasses.replace(
        model,
        num_classes=classes,
        image_size=(height, width) if model.image_size is None else model.image_size,
        channels=channels if model.channels is None else model.channels,
        dtype=dtype,
    )
    data = dataclasses.replace(data, mean=mean, std=std)
    return dataclasses.replace(config, model=model, data=data, dtype=dtype)


def input_shape(model: ViT) -> tuple[int, int, int]:
    """(h, w, c) of the images of a model whose size and channels are filled in."""
    assert model.image_size is not None
    assert model.channels is not None
    return (*pair(model.image_size), model.channels)


def make_recipe(config: Config, total_steps: int, steps_per_epoch: int) -> Recipe:
    """The recipe of a config whose statistics are filled in."""
    schedule = make_schedule(config.optim, total_steps, steps_per_epoch)
    assert config.data.mean is not None
    assert config.data.std is not None
    return Recipe(
        model=config.model,
        optimizer=make_optimizer(config.optim, schedule, steps_per_epoch),
        schedule=schedule,
        augment=config.augment,
        mean=config.data.mean,
        std=config.data.std,
        label_smoothing=config.label_smoothing,
        ema_decay=config.optim.ema_decay,
        freeze=config.optim.freeze,
        seed=config.seed,
    )
