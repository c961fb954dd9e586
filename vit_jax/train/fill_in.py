"""A config with all that follows from the data and the devices."""

import dataclasses

import jax
import numpy as np

from vit_jax.config import Config, ConfigError
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
    """
    model, data = config.model, config.data
    height, width, channels = train.image_shape
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
            statistics = source_statistics(train)
        else:
            statistics = [resize_statistics(x, channels) for x in (pixels.mean, pixels.std)]
        mean, std = mean or statistics[0], std or statistics[1]
    if (
        not len(mean) == len(std) == channels
        or not min(std) > 0
        or not np.isfinite((*mean, *std)).all()
    ):
        raise ConfigError(
            f"data.mean={mean}, data.std={std}: the images have {channels} channels, so each needs "
            f"{channels} numbers, and those of std above 0"
        )
    _check_augmentation(config, train, devices)
    dtype = model.dtype or config.dtype
    if dtype == "auto":
        dtype = "float32" if devices[0].platform == "cpu" else "bfloat16"
    model = dataclasses.replace(
        model,
        num_classes=classes,
        image_size=(height, width) if model.image_size is None else model.image_size,
        channels=channels if model.channels is None else model.channels,
        dtype=dtype,
    )
    data = dataclasses.replace(data, mean=mean, std=std)
    return dataclasses.replace(config, model=model, data=data, dtype=dtype)


def _check_augmentation(config: Config, train: AnySource, devices: list[jax.Device]) -> None:
    """Raise a ConfigError where these images cannot be augmented as the config asks."""
    augment, channels = config.augment, train.image_shape[2]
    if augment.recolours and channels not in (1, 3):
        raise ConfigError(
            f"augment.policy={augment.policy!r}, augment.colour_jitter={augment.colour_jitter}: "
            f"colours are changed in greyscale or RGB, and these images have {channels} channels"
        )
    if augment.recolours and train.dtype.kind == "f":
        raise ConfigError(
            f"augment.policy={augment.policy!r}, augment.colour_jitter={augment.colour_jitter}: "
            "these images are floats, whose range is not known; save them as uint8 or uint16"
        )
    share = config.batch_size // len(devices)
    if augment.mixes and share % 2:
        raise ConfigError(
            "augment.mixup and augment.cutmix mix pairs, so each device's share of a batch should "
            f"be even: batch_size={config.batch_size} on {len(devices)} devices gives {share}"
        )


def input_shape(model: ViT) -> tuple[int, int, int]:
    """(h, w, c) of the images of a model whose size and channels are filled in."""
    assert model.image_size is not None
    assert model.channels is not None
    return (*pair(model.image_size), model.channels)
