"""What does not go together in a config, all of it, before anything is opened or compiled."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.config import Config, check_ranges
from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.optim import Params, ema_decay, freeze_mask, make_optimizer


def problems(
    config: Config,
    overridden: Sequence[str] = (),
    *,
    image_shape: tuple[int, int, int] | None = None,
    steps_per_epoch: int | None = None,
    devices: int = 1,
    model_known: bool | None = None,
) -> list[str]:
    """A line on everything wrong with a config: the field, its value, and what would be right.

    Args:
      overridden: dotted names of fields that stand on the command line. A length that does may be
        shorter than the warm-up of the file: it is a trial.
      image_shape: (h, w, c) of the images, where it is known; else as far as the config says it.
      steps_per_epoch: where it is known.
      devices: the number that a proposed batch should be shared by.
      model_known: whether `config.model` is the whole model. None: it is without `pretrained`,
        whose architecture stands beneath.
    """
    ranges = check_ranges(config)
    found = [*ranges, *_length_problems(config, overridden, steps_per_epoch)]
    found += _batch_problems(config, devices)
    if config.parallel == "pmap" and config.fsdp > 1:
        found.append(
            f"parallel='pmap' and fsdp={config.fsdp}: under pmap every device holds the whole "
            "state; choose parallel=auto, or fsdp=1"
        )
    model = config.model
    if model.pool == "none":
        found.append(
            "model.pool='none' gives a row per token: choose cls, gap, map or seq to train"
        )
    if model.dtype is not None and config.dtype not in ("auto", model.dtype):
        found.append(
            f"dtype={config.dtype} and model.dtype={model.dtype}: set dtype alone, the model's "
            "follows from it"
        )
    for make in (
        lambda: make_optimizer(config.optim, lambda step: 0.0, 1),
        lambda: ema_decay(config.optim, 1),
    ):
        try:
            make()
        except ValueError as error:
            found.append(str(error))
    known = config.pretrained is None if model_known is None else model_known
    if known and not any(problem.startswith("model.") for problem in ranges):
        found += _model_problems(config, image_shape or _declared_shape(config))
    return found


def nearest_multiples(number: int, unit: int) -> str:
    """The multiples above 0 on both sides of a number.

    >>> nearest_multiples(100, 8)
    '96 or 104'
    """
    below = number // unit * unit
    return f"{below} or {below + unit}" if below > 0 else str(unit)


def _length_problems(
    config: Config, overridden: Sequence[str], steps_per_epoch: int | None
) -> list[str]:
    epochs, steps = config.epochs, config.steps
    if (epochs is None) == (steps is None):
        return [f"epochs={epochs} and steps={steps}: exactly one of them says how long to train"]
    length = f"epochs={epochs:g}" if epochs is not None else f"steps={steps}"
    if epochs is None and steps_per_epoch is not None:
        epochs = (steps or 0) / steps_per_epoch
        length += f", which is {epochs:.3g} epochs"
    if epochs is None or not epochs > 0:
        return []
    found = []
    parts = {
        "optim.warmup_epochs": config.optim.warmup_epochs,
        "optim.head_only_epochs": config.optim.head_only_epochs,
        "early.epochs": config.early.epochs,
    }
    for name, value in parts.items():
        trial = not {"epochs", "steps"}.isdisjoint(overridden) and name not in overridden
        if value > epochs and not trial:
            found.append(
                f"{name}={value:g}: longer than the training, {length}; choose at most "
                f"{epochs:.3g}, or train longer"
            )
    return found


def _batch_problems(config: Config, devices: int) -> list[str]:
    batch, augment, found = config.batch_size, config.augment, []
    for name, unit in (
        ("augment.repeats", augment.repeats),
        ("accumulate_steps", config.accumulate_steps),
    ):
        if unit > 0 and batch % unit:
            shared = math.lcm(unit, devices * max(1, config.accumulate_steps))
            near = nearest_multiples(batch, shared)
            found.append(f"batch_size={batch}: should be a multiple of {name}={unit}: use {near}")
    if augment.mixes and batch <= augment.repeats:
        found.append(
            f"augment.repeats={augment.repeats}: a batch of batch_size={batch} would hold one "
            "image alone, and have nothing to mix it with"
        )
    return found


def _declared_shape(config: Config) -> tuple[int, int, int]:
    """(h, w, c) as far as the config says it; where it does not, a shape that suits the model."""
    size = config.model.image_size or config.data.image_size
    if size is None:
        early = pair(config.early.patch_size or config.model.patch_size)
        height, width = map(math.lcm, pair(config.model.patch_size), early)
        size = height, width
    return (*pair(size), config.model.channels or config.data.channels or 3)


def _model_problems(config: Config, image_shape: tuple[int, int, int]) -> list[str]:
    """What the model says of images of that shape, and the names of parameters that are frozen.

    The model tells one problem at a time: what it names is put right and the rest tried again.
    """
    model = config.model.clone(num_classes=config.model.num_classes or 2)
    if not config.optim.freeze:
        model = model.clone(depth=1)  # no rule depends on it
    mended: dict[str, dict[str, Any]] = {
        "patch_size": {"patch_size": image_shape[:2]},
        "num_heads": {"num_heads": 1},
        "width": {"positions": "none"},  # which are fixed, and have no parameters
        "class_token": {"pool": "gap"},
        "image_size": {"image_size": None},
        "channels": {"channels": None},
    }
    found = []
    while True:
        try:
            params = _parameters(model, image_shape)
        except ValueError as error:
            found.append(f"model.{error}")
            fields = mended.pop(str(error).partition("=")[0], None)
            if fields is None:
                return found
            model = model.clone(**fields)
        else:
            break
    try:
        freeze_mask(params, config.optim.freeze)
    except ValueError as error:
        found.append(str(error))
    return found if found else _early_problems(config, model, image_shape, params)


def _early_problems(
    config: Config, model: ViT, image_shape: tuple[int, int, int], params: Params
) -> list[str]:
    """A line where the early epochs do nothing, or cannot train the model's parameters."""
    early, patch = config.early, config.early.patch_size
    changes = patch is not None or early.patch_dropout is not None
    if bool(early.epochs) != changes:
        return [
            f"early.epochs={early.epochs:g}, early.patch_size={patch}, early.patch_dropout="
            f"{early.patch_dropout}: say both how many epochs and what is changed in them, or "
            "nothing"
        ]
    if not changes:
        return []
    then = early.model(model)
    smaller = min(map(operator.sub, pair(then.patch_size), pair(model.patch_size))) < 0
    if smaller or then.patch_dropout < model.patch_dropout:
        return [
            f"early.patch_size={patch}, early.patch_dropout={early.patch_dropout}: these epochs "
            f"would cost more than the others, with patch_size={model.patch_size} and "
            f"patch_dropout={model.patch_dropout}; early is for larger or fewer patches"
        ]
    try:
        shapes = _parameters(then, image_shape)
    except ValueError as error:
        return [f"early.{error}"]
    if jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params):
        return []
    if model.shifted_patches:
        return [
            f"early.patch_size={patch} with model.shifted_patches=True: shifted patches are "
            "normalised number by number, so their weights fit one size alone; drop one of the two"
        ]
    return [
        f"early.patch_size={patch}: these epochs would train parameters of other shapes than "
        f"patch_size={model.patch_size}; set model.patch_kernel_size={patch}, and "
        "model.positions=sincos2d or none, which have no table"
    ]


def _parameters(model: ViT, image_shape: tuple[int, int, int]) -> Params:
    """The parameters as shapes and dtypes; a ValueError where the model refuses the images."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    return jax.eval_shape(model.init, key, images)["params"]
