"""A config with all that follows from the data and the devices."""

import dataclasses

import jax
import numpy as np

from vit_jax.config import Config, ConfigError
from vit_jax.config_checks import nearest_multiples
from vit_jax.data.feeds import AnySource
from vit_jax.data.statistics import source_statistics
from vit_jax.models import ViT
from vit_jax.models.patches import pair
from vit_jax.weights.adapt import resize_statistics
from vit_jax.weights.layout import Preprocessing


def fill_in(
    config: Config, train: AnySource, devices: list[jax.Device], pixels: Preprocessing | None
) -> Config:
    """The config with what follows from the data (shapes, classes, statistics) and the devices.

    The statistics are those of pretrained weights, `pixels`, where there are any.

    Raises:
      ConfigError: the config does not suit the data, see `data_problems`.
    """
    if problems := data_problems(config, train, len(devices)):
        raise ConfigError(*problems)
    model, data = config.model, config.data
    height, width, channels = train.image_shape
    mean, std = data.mean, data.std
    if mean is None or std is None:
        if pixels is None:
            statistics = source_statistics(train)
        else:
            statistics = [resize_statistics(x, channels) for x in (pixels.mean, pixels.std)]
        mean, std = mean or statistics[0], std or statistics[1]
    if problems := _statistics_problems(mean, std, channels):
        raise ConfigError(*problems)
    dtype = model.dtype or config.dtype
    if dtype == "auto":
        dtype = "float32" if devices[0].platform == "cpu" else "bfloat16"
    model = dataclasses.replace(
        model,
        num_classes=len(train.class_names),
        image_size=(height, width) if model.image_size is None else model.image_size,
        channels=channels if model.channels is None else model.channels,
        dtype=dtype,
    )
    data = dataclasses.replace(data, mean=mean, std=std)
    return dataclasses.replace(config, model=model, data=data, dtype=dtype)


def data_problems(config: Config, train: AnySource, devices: int) -> list[str]:
    """A line on every field that does not suit these images; 0 devices: that many are not known."""
    found, data = [], config.data
    classes, channels = len(train.class_names), train.image_shape[2]
    if config.model.num_classes not in (None, classes):
        found.append(
            f"model.num_classes={config.model.num_classes}, but {data.name} has {classes} classes: "
            "leave it out, it follows from the data"
        )
    found += _statistics_problems(data.mean, data.std, channels)
    augment = config.augment
    asked = f"augment.policy={augment.policy!r}, augment.colour_jitter={augment.colour_jitter}"
    if augment.recolours and channels not in (1, 3):
        found.append(
            f"{asked}: colours are changed in greyscale or RGB, and these images have {channels} "
            "channels"
        )
    if augment.recolours and train.dtype.kind == "f":
        found.append(
            f"{asked}: these images are floats, whose range is not known; save them as uint8 or "
            "uint16"
        )
    return found + (_share_problems(config, devices) if augment.mixes else [])


def _share_problems(config: Config, devices: int) -> list[str]:
    """A line where a device would mix an odd number of images, of the batch or of a part of it."""
    parts = devices * config.accumulate_steps
    if parts < 1 or config.batch_size % parts or config.batch_size // parts % 2 == 0:
        return []
    accumulated = f" in {config.accumulate_steps} parts" if parts > devices else ""
    return [
        "augment.mixup and augment.cutmix mix pairs, so each device's share of a batch should be "
        f"even: batch_size={config.batch_size} on {devices} devices{accumulated} gives "
        f"{config.batch_size // parts}; use {nearest_multiples(config.batch_size, 2 * parts)}"
    ]


def _statistics_problems(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, channels: int
) -> list[str]:
    """A line where mean or standard deviation, as far as they are known, cannot be the images'."""
    given = [numbers for numbers in (mean, std) if numbers is not None]
    fit = all(len(numbers) == channels and np.isfinite(numbers).all() for numbers in given)
    if fit and min(std or (1.0,)) > 0:
        return []
    return [
        f"data.mean={mean}, data.std={std}: the images have {channels} channels, so each needs "
        f"{channels} numbers, and those of std above 0"
    ]


def input_shape(model: ViT) -> tuple[int, int, int]:
    """(h, w, c) of the images of a model whose size and channels are filled in."""
    assert model.image_size is not None
    assert model.channels is not None
    return (*pair(model.image_size), model.channels)
