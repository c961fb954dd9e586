"""A run is a config: load one from a file, write it as JSON, read it back, compare two."""

import dataclasses
import difflib
import json
import math
import runpy
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vit_jax.data.source import DataConfig
from vit_jax.models import ViT
from vit_jax.ops.augment import AugmentConfig
from vit_jax.ops.test_time import TestTime
from vit_jax.optim import OptimConfig
from vit_jax.sharding import Device, Parallel


class ConfigError(ValueError):
    """A config that cannot be read or does not make sense; the message says what would be right."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made of. Exactly one of `epochs` and `steps` is set."""

    model: ViT = ViT()
    """The architecture."""
    pretrained: str | None = None
    """Weights to start from: a file or folder in any published layout, or hf-hub:USER/REPO. They
    bring their architecture; the fields of `model` that are not at their default override it."""
    data: DataConfig = DataConfig()
    """Which images."""
    augment: AugmentConfig = AugmentConfig()
    """What happens to training images."""
    optim: OptimConfig = OptimConfig()
    """How weights are updated."""
    seed: int = 0
    """Fixes the initial weights, the order of images and all randomness in training."""
    batch_size: int = 128
    """Images per step, over all devices."""
    epochs: float | None = None
    """Length of the training, in passes over the training images."""
    steps: int | None = None
    """Length of the training, in steps."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    test_time: TestTime = "none"
    """Views of each test image whose logits are averaged, reported beside the plain result: mirror
    adds the mirror image; shifts also moves both by a pixel."""
    eval_every_epochs: float = 1.0
    """Epochs between evaluations on the held-out split."""
    checkpoint_every_epochs: float = 1.0
    """Epochs between checkpoints; the last step always gets one."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, besides the one with the best held-out accuracy."""
    log_every_steps: int = 10
    """Steps between rows of the metrics files; the run's last step always gets one."""
    pictures: bool = True
    """Draw pictures while training goes on, and report.html at its end."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type of the model; auto: bfloat16 on accelerators, float32 on CPUs."""
    device: Device = "auto"
    """Kind of devices to train on, all of them; auto: the best that jax sees."""
    parallel: Parallel = "auto"
    """How a step runs on many devices: auto is jax.jit over a mesh, pmap is jax.pmap."""


def load_config(path: str | Path) -> Config:
    """Read a .py file that defines `config`, or a .json file as `to_json` writes it.

    A .py file is run as the code it is: name only files you trust.

    Raises:
      ConfigError: there is no such file, or it does not hold a Config.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3)
        hint = f"; perhaps {' or '.join(str(path.parent / name) for name in near)}" if near else ""
        if path.is_dir():
            hint = f"; for a run folder, name {path / 'config.json'}"
        raise ConfigError(f"--config {path}: there is no such file{hint}")
    if path.suffix == ".json":
        try:
            return from_json(path.read_text())
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {path}: {error}") from error
    if path.suffix != ".py":
        raise ConfigError(f"--config {path}: expected a .py file, or a run's config.json")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:  # whatever the user's own code may raise
        raise ConfigError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"--config {path}: the file should define `config = Config(…)`")
    try:
        return from_json(to_json(config))  # Python checks no types: this does
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error


def resolve_length(config: Config, overridden: Sequence[str] = ()) -> Config:
    """Leave one of `epochs` and `steps` in force: the one overridden, where the other was set.

    Raises:
      ConfigError: neither is set, or both are, or the one in force is not positive.
    """
    if "steps" in overridden and "epochs" not in overridden:
        config = dataclasses.replace(config, epochs=None)
    if "epochs" in overridden and "steps" not in overridden:
        config = dataclasses.replace(config, steps=None)
    lengths = [length for length in (config.epochs, config.steps) if length is not None]
    if len(lengths) != 1:
        raise ConfigError(
            f"epochs={config.epochs} and steps={config.steps}: exactly one of them says how "
            "long to train"
        )
    if not 0 < lengths[0] < math.inf:
        raise ConfigError(f"epochs={config.epochs}, steps={config.steps}: should be above 0")
    return config


def check_ranges(config: Config) -> None:
    """Raise a ConfigError that lists every number outside its range."""
    at_least = {
        **dict.fromkeys(("model.depth", "model.num_heads", "model.width", "batch_size"), 1),
        **dict.fromkeys(("keep_checkpoints", "log_every_steps", "data.max_pixels"), 1),
        **dict.fromkeys(("seed", "model.num_registers", "data.holdout_seed"), 0),
        **dict.fromkeys(("optim.learning_rate", "optim.warmup_epochs", "optim.weight_decay"), 0),
        "optim.head_only_epochs": 0,
    }
    rates = ("dropout", "attention_dropout", "embed_dropout", "drop_path")
    below_one = (*(f"model.{rate}" for rate in rates), "label_smoothing", "optim.ema_decay")
    at_most_one = ("data.resident_share", "data.crop_fraction")
    above_zero = ("eval_every_epochs", "checkpoint_every_epochs", "optim.clip_norm")
    values = dict(_items(_plain(config), ""))
    problems = [
        f"{name}={values[name]}: should be at least {least}"
        for name, least in at_least.items()
        if not least <= values[name] < math.inf
    ]
    problems += [
        f"{name}={values[name]}: should be at least 0 and below 1"
        for name in below_one
        if values[name] is not None and not 0 <= values[name] < 1
    ]
    problems += [
        f"{name}={values[name]}: should be above 0"
        for name in above_zero
        if values[name] is not None and not 0 < values[name] < math.inf
    ]
    problems += [
        f"{name}={values[name]}: should be above 0 and at most 1"
        for name in at_most_one
        if not 0 < values[name] <= 1
    ]
    problems += [f"augment.{problem}" for problem in config.augment.problems()]
    if config.data.workers is not None and config.data.workers < 0:
        problems.append(f"data.workers={config.data.workers}: should be at least 0")
    if config.augment.mixes and config.batch_size <= config.augment.repeats:
        problems.append(
            f"augment.repeats={config.augment.repeats}: a batch of batch_size={config.batch_size} "
            "would hold one image alone, and have nothing to mix it with"
        )
    if config.batch_size % max(1, config.augment.repeats):
        problems.append(
            f"batch_size={config.batch_size}: should be a multiple of augment.repeats="
            f"{config.augment.repeats}"
        )
    decay = config.optim.layer_decay
    if decay is not None and not 0 < decay <= 1:
        problems.append(f"optim.layer_decay={decay}: should be above 0 and at most 1")
    if config.model.pool == "none":
        problems.append("model.pool='none' gives a row per token: choose cls, gap or map to train")
    if problems:
        raise ConfigError("; ".join(problems))


def to_json(config: Config) -> str:
    """The config as JSON: objects for dataclasses, lists for tuples."""
    return json.dumps(_plain(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Read what `to_json` wrote.

    Raises:
      ConfigError: not JSON, an unknown field, or a value of another type; names the field.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the config is not JSON: {error}") from error
    return _build(Config, plain, "config")


# What may change between a run and its resumption without changing what has been learnt so far.
RESUMABLE = (
    "data.root",
    "data.workers",
    "data.on_bad_image",
    "test_time",
    "epochs",
    "steps",
    "eval_every_epochs",
    "checkpoint_every_epochs",
    "keep_checkpoints",
    "log_every_steps",
    "pictures",
    "device",
    "parallel",
)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields that differ, with both values.

    >>> differences(Config(), Config(optim=OptimConfig(clip_norm=1.0)))
    {'optim.clip_norm': (None, 1.0)}
    """
    return _differences(_plain(old), _plain(new), "")


def _differences(old: Any, new: Any, prefix: str) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for name in old:
        if isinstance(old[name], dict):
            found |= _differences(old[name], new[name], f"{prefix}{name}.")
        elif old[name] != new[name]:
            found[prefix + name] = old[name], new[name]
    return found


def field_names(config: Config) -> list[str]:
    """Dotted names of all fields that hold values, such as "model.depth"."""
    return [name for name, _ in _items(_plain(config), "")]


def _items(plain: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _items(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def fields_of(kind: type) -> list[str]:
    # A Linen module has two fields more, for its place in a tree of modules.
    linen = ("parent", "name") if issubclass(kind, ViT) else ()
    return [field.name for field in dataclasses.fields(kind) if field.name not in linen]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in fields_of(type(value))}
    return value


def _build(hint: Any, value: Any, where: str) -> Any:
    """`value`, read from JSON, as an object of type `hint`; `where` is its dotted name."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}={value!r}: expected an object with the fields of {hint.__name__}"
            )
        hints, names = get_type_hints(hint), fields_of(hint)
        for name in value:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint_text = f"; perhaps {near[0]}" if near else f"; there are {', '.join(names)}"
                raise ConfigError(f"{where}.{name}: there is no such field{hint_text}")
        return hint(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items()})
    for option in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if _matches(option, value):
            return tuple(value) if isinstance(value, list) else value
    raise ConfigError(f"{where}={value!r}: expected {_describe(hint)}")


def _matches(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        items = [arg for arg in get_args(hint) if arg is not ...]
        if not isinstance(value, list) or (... not in get_args(hint) and len(value) != len(items)):
            return False
        return all(_matches(items[min(i, len(items) - 1)], item) for i, item in enumerate(value))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
