"""A run is a config: load one from a file, write it as JSON, read it back, compare two."""

import ast
import dataclasses
import difflib
import json
import math
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from vit_jax.data.source import DataConfig
from vit_jax.fields import build, leaves, number_problem, plain, shown, unknown_fields
from vit_jax.fields import fields_of as fields_of
from vit_jax.models import ViT
from vit_jax.ops.augment import AugmentConfig
from vit_jax.ops.test_time import TestTime
from vit_jax.optim import OptimConfig
from vit_jax.sharding import Device, Parallel

OnNan = Literal["stop", "skip", "rollback"]
StopSignal = Literal["SIGUSR1", "SIGUSR2", "SIGHUP"]


class ConfigError(ValueError):
    """A config that cannot be read or does not make sense; the message says what would be right.

    `ConfigError("…", "…")` holds several problems, and its message has a line for each.
    """

    def __str__(self) -> str:
        if len(self.args) < 2:
            return super().__str__()
        return "\n  ".join([f"{len(self.args)} problems:", *map(str, self.args)])


@dataclasses.dataclass(frozen=True)
class EarlyConfig:
    """The first epochs on fewer tokens, which cost less; by default there are none."""

    epochs: float = 0.0
    """How many."""
    patch_size: int | tuple[int, int] | None = None
    """Larger patches for these epochs, as FlexiViT takes them (arXiv 2212.08013); the model then
    needs `patch_kernel_size`, and positions without a table. None: the model's own."""
    patch_dropout: float | None = None
    """Share of the patches left out in these epochs (arXiv 2208.07220). None: the model's own."""

    def model(self, model: ViT) -> ViT:
        """The model as these epochs train it."""
        own: dict[str, Any] = {
            "patch_size": self.patch_size,
            "patch_dropout": self.patch_dropout,
        }
        return model.clone(**{name: value for name, value in own.items() if value is not None})


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
    early: EarlyConfig = EarlyConfig()
    """What is cheaper at the beginning."""
    seed: int = 0
    """Fixes the initial weights, the order of images and all randomness in training."""
    batch_size: int = 128
    """Images per step, over all devices."""
    accumulate_steps: int = 1
    """Parts of a batch whose gradients are computed one after the other and summed: memory for one
    part, the update of the whole."""
    steps_per_call: int = 1
    """Steps that go to the devices as one call where nothing falls between them: no evaluation and
    no checkpoint. For models so small that a step takes no longer than its dispatch; choose a
    divisor of the steps between evaluations. The numbers are those of single steps up to rounding;
    a signal is heeded after the call."""
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
    on_nan: OnNan = "stop"
    """What follows a loss or gradient that is not finite: stop ends the run, skip leaves out the
    update of that batch, rollback goes back to the newest checkpoint and leaves out the batch."""
    stop_signal: StopSignal | None = None
    """One more signal, beside Ctrl-C and SIGTERM, that saves and ends the run; SLURM sends SIGUSR1
    where sbatch has --signal=USR1@120."""
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
    fsdp: int = 1
    """Devices that share one state: parameters, optimiser and average lie in so many parts. At 1
    every device holds all of it. For models that are too large for that; parallel=auto only."""


def load_config(path: str | Path) -> Config:
    """Read a .py file that defines `config`, or a .json file as `to_json` writes it.

    A .py file is run as the code it is: name only files you trust.

    Raises:
      ConfigError: there is no such file, or it does not hold a Config; names all that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3)
        hint = f"; perhaps {' or '.join(str(path.parent / name) for name in near)}" if near else ""
        if path.is_dir():
            hint = f"; for a run folder, name {path / 'config.json'}"
        raise ConfigError(f"--config {path}: there is no such file{hint}")
    if path.suffix not in (".json", ".py"):
        raise ConfigError(f"--config {path}: expected a .py file, or a run's config.json")
    try:
        return from_json(path.read_text()) if path.suffix == ".json" else _run(path)
    except ConfigError as error:
        raise ConfigError(*(f"--config {path}: {problem}" for problem in error.args)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error


def _run(path: Path) -> Config:
    """The `config` of a .py file, its types checked, which Python does not."""
    try:
        found = _variables(path).get("config")
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code may raise
        raise ConfigError(f"{type(error).__name__}: {error}") from error
    if not isinstance(found, Config):
        raise ConfigError("the file should define `config = Config(…)`")
    problems: list[str] = []
    config = build(Config, plain(found), "config", problems)
    if problems:
        raise ConfigError(*problems)
    return config


def _variables(path: Path) -> dict[str, Any]:
    """What a .py file defines; the fields it names that are not there are one ConfigError."""
    try:
        return runpy.run_path(str(path))
    except TypeError:
        # Python names the first unknown argument alone, so the others are looked for.
        kinds = (Config, ViT, DataConfig, AugmentConfig, OptimConfig, EarlyConfig)
        by_name = {kind.__name__: kind for kind in kinds}
        if unknown := unknown_fields(ast.parse(path.read_bytes()), by_name):
            raise ConfigError(*unknown) from None
        raise


def resolve_length(config: Config, overridden: Sequence[str] = ()) -> Config:
    """Leave one of `epochs` and `steps` in force: the one overridden, where the other was set."""
    if "steps" in overridden and "epochs" not in overridden:
        config = dataclasses.replace(config, epochs=None)
    if "epochs" in overridden and "steps" not in overridden:
        config = dataclasses.replace(config, steps=None)
    return config


LARGEST_SIZE = 1_000_000
"""Sizes of a model lie below, or asking what divides them would take for ever."""

_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "should be at least 1",
        lambda x: x >= 1,
        "batch_size accumulate_steps steps_per_call fsdp keep_checkpoints log_every_steps "
        "data.max_pixels data.image_size model.patch_size model.patch_kernel_size early.patch_size "
        "model.width model.depth model.num_heads "
        "model.head_dim model.mlp_dim model.image_size model.channels model.representation",
    ),
    (
        "should be at least 0",
        lambda x: x >= 0,
        "seed data.holdout_seed data.workers model.num_registers optim.learning_rate "
        "optim.final_learning_rate optim.warmup_epochs optim.head_only_epochs optim.weight_decay "
        "early.epochs",
    ),
    (
        "should be at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "label_smoothing model.dropout model.attention_dropout model.embed_dropout model.drop_path "
        "model.patch_dropout early.patch_dropout optim.ema_decay optim.momentum optim.b1 optim.b2",
    ),
    (
        "should be above 0",
        lambda x: x > 0,
        "epochs steps eval_every_epochs checkpoint_every_epochs optim.clip_norm optim.ema_epochs",
    ),
    (
        "should be above 0 and at most 1",
        lambda x: 0 < x <= 1,
        "data.resident_share data.crop_fraction optim.layer_decay",
    ),
)


def check_ranges(config: Config) -> list[str]:
    """A line on every number that is out of its range, whatever the other fields hold."""
    ranges = {name: (words, holds) for words, holds, names in _RANGES for name in names.split()}
    problems = [f"augment.{problem}" for problem in config.augment.problems()]
    told = {problem.partition("=")[0] for problem in problems}
    for name, value in leaves(plain(config)):
        words, holds = ranges.get(name, ("", lambda x: True))
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if words and not all(holds(number) and number < math.inf for number in numbers):
            problems.append(f"{name}={shown(value)}: {words}")
        elif name.startswith("model.") and any(
            x >= LARGEST_SIZE for x in numbers if type(x) is int
        ):
            problems.append(f"{name}={shown(value)}: should be below {LARGEST_SIZE:,}")
        elif name not in told and (problem := number_problem(value)):
            problems.append(f"{name}={shown(value)}: {problem}")
    return problems


def to_json(config: Config) -> str:
    """The config as JSON: objects for dataclasses, lists for tuples."""
    return json.dumps(plain(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Read what `to_json` wrote.

    Raises:
      ConfigError: not JSON, or unknown fields, or values of another type; names every field.
    """
    problems: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        times = Counter(name for name, _ in pairs)
        problems.extend(
            f"{name}: given {number} times in one object, keep one"
            for name, number in times.items()
            if number > 1
        )
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise ConfigError("the config is not JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"the config is not JSON: {error}") from error
    config = build(Config, content, "config", problems)
    if problems:
        raise ConfigError(*problems)
    return config


# What may change between a run and its resumption without changing what has been learnt so far.
RESUMABLE = (
    "model.remat",
    "model.scan_layers",
    "accumulate_steps",
    "steps_per_call",
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
    "on_nan",
    "stop_signal",
    "pictures",
    "device",
    "parallel",
    "fsdp",
)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields that differ, with both values.

    >>> differences(Config(), Config(optim=OptimConfig(clip_norm=1.0)))
    {'optim.clip_norm': (None, 1.0)}
    """
    before, now = dict(leaves(plain(old))), dict(leaves(plain(new)))
    return {name: (before[name], now[name]) for name in before if before[name] != now[name]}


def field_names(config: Config) -> list[str]:
    """Dotted names of all fields that hold values, such as "model.depth"."""
    return [name for name, _ in leaves(plain(config))]
