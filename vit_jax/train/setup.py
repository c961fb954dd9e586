"""From a config to everything a training needs, before the first step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.compilation import quickly
from vit_jax.config import Config
from vit_jax.data.check import check_data
from vit_jax.data.check_report import log_lines
from vit_jax.data.feeds import AnySource, Feed, make_feed, settle
from vit_jax.data.order import Order
from vit_jax.data.streaming import RandomCrop
from vit_jax.models import forward_flops, parameter_count
from vit_jax.ops.metrics import Counts
from vit_jax.optim import ema_decay, make_optimizer, make_schedule
from vit_jax.processes import agree, meet, share
from vit_jax.sharding import (
    batch_sharded,
    make_mesh,
    place,
    replicated,
    select_devices,
    state_sharding,
)
from vit_jax.train.fill_in import fill_in, input_shape
from vit_jax.train.opening import open_inputs
from vit_jax.train.programs import TrainProgram, compile_eval_step, compile_train_step
from vit_jax.train.state import TrainState, init_state
from vit_jax.train.step import INIT, Recipe, stream_key


@dataclasses.dataclass(frozen=True)
class Early:
    """The first steps of a training, where its config has `early` epochs."""

    until: int
    """Number of these steps."""
    train_step: TrainProgram
    train_steps: TrainProgram


@dataclasses.dataclass(frozen=True)
class Job:
    """A training ready to start."""

    began: float
    """When setting up began, by `time.perf_counter`."""
    config: Config
    """With everything filled in that follows from data and devices."""
    class_names: tuple[str, ...]
    fingerprints: dict[str, str]
    data_facts: dict[str, Any]
    """What data.json of the run folder holds: examples, classes and more by use."""
    sources: Mapping[str, AnySource]
    """By use: "train", and "eval" and "test" where there are such."""
    train_feed: Feed
    eval_feed: Feed | None
    test_feed: Feed | None
    total_steps: int
    devices: list[jax.Device]
    sharding: Any
    """Of the state: a pytree of shardings, of the same structure."""
    data_notes: tuple[str, ...]
    """What the short form of the data check found, a line each."""
    changes: tuple[str, ...]
    """What was done to pretrained weights to make them fit, a line each."""
    state_shapes: TrainState
    """The state as shapes and dtypes."""
    recipe: Recipe
    initial_state: Callable[[], TrainState]
    train_step: TrainProgram
    train_steps: TrainProgram
    """`steps_per_call` steps at once: plans `side_by_side`, and metrics with an axis of steps."""
    early: Early | None
    """The programs that do the first steps instead; None: there are no such steps."""
    eval_step: Callable[[Any, Any, Any], Counts]
    test_time_step: Callable[[Any, Any, Any], Counts]
    """The same, averaged over the views that the config asks for."""

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

    @functools.cached_property
    def train_flops_per_image(self) -> int:
        """Floating-point operations of a step, per image, on average over all steps."""
        height, width, channels = input_shape(self.config.model)
        models = self.config.early.model(self.config.model), self.config.model
        first, rest = (
            3 * forward_flops(model, (height, width), channels, train=True) for model in models
        )
        early = min(self.early.until if self.early else 0, self.total_steps)
        return round((early * first + (self.total_steps - early) * rest) / self.total_steps)

    @property
    def feeds(self) -> list[Feed]:
        return [feed for feed in (self.train_feed, self.eval_feed, self.test_feed) if feed]

    @property
    def bad_images(self) -> dict[str, str]:
        """Files that held no picture, by name, and why; as far as they have been met."""
        return {name: why for feed in self.feeds for name, why in feed.bad_images.items()}

    def is_due(self, done: int, every_epochs: float) -> bool:
        """Whether what is done every so many epochs, and at the end, is due after `done` steps."""
        return done == self.total_steps or done % self.steps_of(every_epochs) == 0

    def interrupts(self, done: int) -> bool:
        """Whether an evaluation or a checkpoint is due after `done` steps."""
        every = self.config.checkpoint_every_epochs, self.config.eval_every_epochs
        return any(self.is_due(done, epochs) for epochs in every)

    def steps_at_once(self, done: int) -> int:
        """How many steps go out as one call after `done`: `steps_per_call`, or else 1.

        It depends on the step alone and not on where a run began, so that one that goes on computes
        with the same programs as one that was never stopped.
        """
        number = self.config.steps_per_call
        if done % number or done + number > self.total_steps:
            return 1
        if self.early and done < self.early.until < done + number:
            return 1
        return 1 if any(map(self.interrupts, range(done + 1, done + number))) else number

    def train_program(self, done: int, number: int) -> TrainProgram:
        """What does the next `number` steps, as many as `steps_at_once` says, after `done`."""
        part = self.early if self.early and done < self.early.until else self
        return part.train_step if number == 1 else part.train_steps

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
      ConfigError: the config does not make sense, or what it asks for cannot be had; names every
        field that is wrong and what would be right.
      DataError, DeviceError, WeightsError, ValueError: the same, where one thing alone is wrong.
    """
    began = time.perf_counter()
    inputs = open_inputs(config, overridden, stored, select_devices)
    devices, start, data = inputs.devices, inputs.start, inputs.config.data
    mesh = make_mesh(devices, config.fsdp)
    meet()  # one of them may have opened its data much later
    splits, resident = settle(data, inputs.splits, replicated(mesh), batch_sharded(mesh))
    train = splits["train"]
    config = fill_in(inputs.config, train, devices, start.pixels if start else None)
    params, changes = start.read(config, train.class_names) if start else (None, ())

    feeds = {use: _feed(config, use, source, resident) for use, source in splits.items()}
    steps_per_epoch = feeds["train"].steps_per_epoch
    total_steps = config.steps or max(1, round((config.epochs or 0) * steps_per_epoch))
    recipe = make_recipe(config, total_steps, steps_per_epoch)
    early_recipe = dataclasses.replace(recipe, model=config.early.model(recipe.model))
    early_until = round(config.early.epochs * steps_per_epoch)
    ema, shape = recipe.ema_decay is not None, train.image_shape
    initial_state = functools.partial(
        init_state, recipe.model, recipe.optimizer, image_shape=shape, ema=ema
    )
    # A wrong shape is an error here, not after minutes of compiling.
    shapes = jax.eval_shape(lambda: initial_state(stream_key(config.seed, INIT)))
    sharding = state_sharding(mesh, shapes)
    step, steps, early_step, early_steps = (
        compile_train_step(each, mesh, config.parallel, feeds["train"], sharding, several)
        for each in (recipe, early_recipe)
        for several in (False, True)
    )
    # Where the data lies and who decodes it are each machine's own affair.
    anywhere = dataclasses.replace(config.data, root=None, workers=None)
    agree(
        "config and data",
        (
            dataclasses.replace(config, data=anywhere),
            [source.fingerprint for source in splits.values()],
            train.class_names,
        ),
    )

    return Job(
        began=began,
        config=config,
        class_names=train.class_names,
        fingerprints={name: source.fingerprint for name, source in splits.items()},
        data_facts={use: _facts(source, feeds[use]) for use, source in splits.items()},
        sources=splits,
        train_feed=feeds["train"],
        eval_feed=feeds.get("eval"),
        test_feed=feeds.get("test"),
        total_steps=total_steps,
        devices=devices,
        sharding=sharding,
        data_notes=tuple(log_lines(check_data(config.data, full=False))),
        changes=changes,
        state_shapes=shapes,
        recipe=recipe,
        initial_state=lambda: _start(initial_state, config.seed, params, sharding, devices[0]),
        train_step=step,
        train_steps=steps,
        early=Early(early_until, early_step, early_steps) if early_until else None,
        eval_step=compile_eval_step(
            recipe, mesh, config.parallel, feeds["train"], sharding=sharding.params
        ),
        test_time_step=compile_eval_step(
            recipe, mesh, config.parallel, feeds["train"], config.test_time, sharding.params
        ),
    )


def _start(
    initial_state: Any, seed: int, params: Any, sharding: Any, device: jax.Device
) -> TrainState:
    """The initial state where it belongs; `params` are those to start from, or None."""
    params = params and place(params, sharding.params)
    # The key is made inside: one that lies on a device of this process is no argument for all.
    start = jax.jit(
        lambda params: initial_state(stream_key(seed, INIT), params=params),
        out_shardings=sharding,
        compiler_options=quickly(device),
    )
    return start(params)


def _feed(
    config: Config, use: str, source: AnySource, resident: jax.sharding.NamedSharding | None
) -> Feed:
    """The feed of a split; that of "train" is shuffled and cropped at random."""
    if use != "train":
        order = Order(len(source), config.batch_size, share=share())
        return make_feed(config.data, source, order, resident, evaluates=True)
    augment = config.augment
    order = Order(len(source), config.batch_size, config.seed, augment.repeats, share())
    crop = None
    if augment.crop_area is not None:
        crop = RandomCrop(augment.crop_area, augment.crop_ratio, config.seed)
    return make_feed(config.data, source, order, resident, crop)


def _facts(source: AnySource, feed: Feed) -> dict[str, Any]:
    counts = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
    return {
        "examples": len(source),
        "classes": dict(zip(source.class_names, counts, strict=True)),
        "image_shape": list(source.image_shape),
        "dtype": str(source.dtype),
        "feed": "streaming" if feed.sharding is None else "resident",
        "fingerprint": source.fingerprint,
    }


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
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        mean=config.data.mean,
        std=config.data.std,
        label_smoothing=config.label_smoothing,
        ema_decay=ema_decay(config.optim, steps_per_epoch),
        freeze=config.optim.freeze,
        seed=config.seed,
        accumulate_steps=config.accumulate_steps,
        skip_not_finite=config.on_nan == "skip",
    )
