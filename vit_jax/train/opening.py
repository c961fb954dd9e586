"""Devices, weights and data of a training, opened, and all that is wrong in one error."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vit_jax.config import Config, ConfigError
from vit_jax.config_checks import nearest_multiples, problems
from vit_jax.data.catalog import AnySource, open_source, open_splits
from vit_jax.data.source import DataConfig, DataError
from vit_jax.sharding import DeviceError, check_batch, check_fsdp, make_mesh
from vit_jax.train.fill_in import data_problems
from vit_jax.train.start import Start, open_start


class Findings:
    """What is wrong, collected: `tried` goes on after an error, `stop` ends with all of them."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def tried(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns; None where it raises an error that people can mend."""
        try:
            return function(*arguments)
        except (ValueError, DeviceError) as error:
            self.errors.append(error)

    def stop(self) -> None:
        """Raise the one error that was found, or a ConfigError that lists them; else nothing."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigError(*dict.fromkeys(map(str, self.errors))) from self.errors[0]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a training is made of, besides its config."""

    config: Config
    """With the architecture of the weights to start from, and their size of images."""
    devices: list[jax.Device]
    start: Start | None
    """None: no weights to start from."""
    splits: dict[str, AnySource]
    """By use, see `open_splits`."""


def open_inputs(
    config: Config,
    overridden: Sequence[str],
    stored: Config | None,
    find_devices: Callable[[Any], list[jax.Device]],
) -> Inputs:
    """Open what a training needs, as far as it can be had, and say all that is wrong at once.

    Args:
      overridden, stored: see `set_up`.
      find_devices: takes `config.device`.

    Raises:
      ConfigError: the config does not make sense, or several things are wrong, a line on each.
      DataError, DeviceError, WeightsError: this alone is wrong.
    """
    found = Findings()
    if stored is not None:
        overridden = [*overridden, "steps"]  # a run that goes on was allowed to begin
    devices = found.tried(find_devices, config.device) or []
    if devices and config.fsdp > 0:
        found.tried(check_fsdp, config.fsdp, len(devices))
    if devices and config.batch_size > 0:
        found.tried(check_shares, config, devices)
    far = _far_away(config, stored)
    near = not (far and problems(config, overridden))
    start = found.tried(open_start, config, overridden, stored) if near else None
    model_known = config.pretrained is None or start is not None
    config = _with_statistics_of(stored, start.config if start else config)
    before = len(found.errors)
    splits = open_data(config.data, found) if near else {}
    train, shapes = splits.get("train"), [source.image_shape for source in splits.values()]
    # Where a split is missing, how many images are trained on may not be known.
    counted = train is not None and len(found.errors) == before and config.batch_size > 0
    wrong = problems(
        config,
        overridden,
        image_shape=shapes[0] if shapes else None,
        steps_per_epoch=-(-len(train) // config.batch_size) if counted else None,
        devices=max(1, len(devices)),
        model_known=model_known,
    )
    if train is not None:
        wrong += data_problems(config, train, len(devices))
    found.errors[:0] = map(ConfigError, wrong)
    found.stop()
    return Inputs(config, devices, start, splits)


def check_shares(config: Config, devices: list[jax.Device]) -> None:
    """Raise a DeviceError unless the devices can share a batch, or each part of one, evenly."""
    batch, parts = config.batch_size, config.accumulate_steps
    if parts <= 1:
        check_batch(batch, make_mesh(devices))
    elif batch % parts == 0 and batch % (parts * len(devices)):
        raise DeviceError(
            f"batch_size={batch} in accumulate_steps={parts} parts cannot be shared evenly by "
            f"{len(devices)} devices: use {nearest_multiples(batch, parts * len(devices))}"
        )


def open_data(data: DataConfig, found: Findings) -> dict[str, AnySource]:
    """What the config asks for, by use; where a split cannot be opened, those that can be."""
    try:
        return open_splits(data)
    except ValueError as error:
        first = error
    splits = {"train": data.train_split, "eval": data.eval_split, "test": data.test_split}
    # What is wrong with the set as a whole would be said of each of them.
    if "split" not in str(first):
        splits = {}
    sources, failed = {}, []
    for use, split in splits.items():
        if split and split != "auto":
            try:
                sources[use] = open_source(data, split)
            except DataError as error:
                failed.append(DataError(f"data.{use}_split={split!r}: {error}"))
    found.errors += failed or [first]
    return sources


def _far_away(config: Config, stored: Config | None) -> bool:
    """Whether weights or data would be downloaded."""
    from vit_jax.data.tfds_source import data_dir

    data = config.data
    folder = data_dir(data.root) / data.name
    at_hand = stored is not None and stored.pretrained == config.pretrained
    weights = (config.pretrained or "").startswith("hf-hub:") and not at_hand
    return weights or (data.name in ("cifar10", "cifar100") and not folder.is_dir())


def _with_statistics_of(stored: Config | None, config: Config) -> Config:
    """The config of a run that goes on: statistics it leaves open are those it was begun with.

    A file that has been mended, or is now left out, would change them by a little.
    """
    if stored is None:
        return config
    mean, std = config.data.mean or stored.data.mean, config.data.std or stored.data.std
    return dataclasses.replace(config, data=dataclasses.replace(config.data, mean=mean, std=std))
