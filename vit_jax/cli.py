"""The commands: `python train.py …` and `vit-jax COMMAND …`.

Exit codes: 0 done; 1 failed while running; 2 the command or config is wrong; 130 after Ctrl-C;
143 after SIGTERM.
"""

import dataclasses
import difflib
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import tyro

import vit_jax
from vit_jax import ViT, cli_data
from vit_jax.config import Config, ConfigError, field_names, load_config, resolve_length
from vit_jax.ops.test_time import TestTime
from vit_jax.train.loop import Resume
from vit_jax.weights.run_folder import Which

DEFAULT_CONFIG = "configs/digits.py"
LayoutName = Literal["huggingface", "timm", "torchvision", "google"]


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a Vision Transformer. --config FILE chooses the config (default: configs/digits.py);
    --config.FIELD=VALUE overrides a field."""

    config: tyro.conf.FlagConversionOff[Config]
    workdir: str | None = None
    """Folder of the run. Default: a fresh numbered folder under runs/."""
    resume: Resume = "auto"
    """auto: go on if the folder holds checkpoints; must: fail unless it does; never: fail if so."""
    debug: bool = False
    """Show the traceback of an error."""


def train_command(argv: Sequence[str] | None = None) -> int:
    """`python train.py …`: parse, train, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return _exit_code(lambda: _train(argv), debug="--debug" in argv)


def main(argv: Sequence[str] | None = None) -> int:
    """`vit-jax COMMAND …`: parse, run, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "convert": convert,
        "data": cli_data.main,
        "doctor": doctor,
        "evaluate": evaluate,
        "summary": summary,
    }
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if argv[:1] == ["data"]:
        return _exit_code(lambda: cli_data.main(argv[1:]), debug)
    return _exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="vit-jax", args=argv, use_underscores=True
        ),
        debug,
    )


def doctor() -> int:
    """Say what this machine offers: versions, devices, and where data is looked for."""
    from importlib.metadata import version

    import jax

    from vit_jax.data.tfds_source import data_dir

    print(f"{'vit_jax':<18}{vit_jax.__version__}")
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"):
        print(f"{name:<18}{version(name)}")
    print(f"{'python':<18}{sys.version.split()[0]}")
    for device in jax.local_devices():
        print(f"{'device':<18}{device.platform}:{device.id}  {device.device_kind}")
    folder = data_dir(None)
    print(f"{'TFDS data':<18}{folder}{'' if folder.is_dir() else '  (not there yet)'}")
    print(f"{'run folders':<18}{Path('runs').resolve()}")
    return 0


def evaluate(
    model: str,
    /,
    data: str | None = None,
    split: str | None = None,
    checkpoint: Which | int = "latest",
    test_time: TestTime = "none",
) -> int:
    """Evaluate a model on a split, every image once.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      data: a data set such as cifar10, or a folder of images. Default: the data of the run.
      split: a split or slice, such as "val" or "train[:10%]". Default: the test split.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      test_time: average the logits of each image and its mirror image, or of shifts of both too.
    """
    from vit_jax.train.evaluate_saved import evaluate_saved

    where = None if data is None else cli_data.where(data)
    label, result = evaluate_saved(model, where, split, checkpoint, test_time)
    print(f"{label}: {result.in_words()}")
    return 0


def convert(model: str, out: str, /, to: LayoutName) -> int:
    """Write a model's weights in a published layout.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      out: a new folder for huggingface and timm, a file for torchvision (.safetensors) and google
        (.npz).
      to: the layout.
    """
    from vit_jax.weights import load_pretrained, save_pretrained

    network, variables, spec = load_pretrained(model)
    print(f"{spec.layout} -> {to}: {save_pretrained(out, to, network, variables, spec)}")
    return 0


def summary(
    model: str, /, image_size: int | tuple[int, int] | None = None, channels: int | None = None
) -> int:
    """Print a model's parameters, floating-point operations and shapes.

    Args:
      model: a config file, a run folder, weights in any published layout, or a published size such
        as B/16.
      image_size: pixels on a side, or height and width. Default: the model's; 224 for a size.
      channels: channels of an image. Default: the model's, else 3.
    """
    import jax

    from vit_jax.models import abstract_params, forward_flops, parameter_count

    architecture = _architecture(model)
    size = image_size or architecture.image_size
    channels = channels or architecture.channels or 3
    if size is None:
        raise ConfigError(f"{model} leaves the image size to its data: add --image_size=PIXELS")
    architecture = architecture.clone(image_size=None, channels=None)
    parameters = abstract_params(architecture, size, channels)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        print(f"{jax.tree_util.keystr(keys, simple=True, separator='/'):<44}{leaf.shape}")
    print(f"parameters         {parameter_count(architecture, size, channels):,}")
    flops = forward_flops(architecture, size, channels)
    print(f"FLOPs per image    {flops / 1e9:,.3f} G forward, {3 * flops / 1e9:,.3f} G training")
    return 0


def _architecture(model: str) -> ViT:
    """The model of a config file, a run folder, weights, or a published size."""
    from vit_jax.models import vit
    from vit_jax.runs.folder import is_run_folder
    from vit_jax.train.start import open_start
    from vit_jax.weights import open_pretrained

    path = Path(model).expanduser()
    if path.suffix in (".py", ".json"):
        config = load_config(path)
        start = open_start(config)
        return start.config.model if start else config.model
    if is_run_folder(path):
        return load_config(path / "config.json").model
    if path.exists() or model.startswith("hf-hub:"):
        return open_pretrained(model).model.clone()
    try:
        return vit(model).clone(image_size=224)
    except ValueError as error:
        raise ConfigError(f"{model}: there is no such file; as a size, {error}") from error


def _train(argv: list[str]) -> int:
    path, rest = _take_config_path(argv)
    arguments = _parse(TrainArguments(config=load_config(path)), rest)
    overridden = [name for name in field_names(arguments.config) if _overrides(rest, name)]
    config = resolve_length(arguments.config, overridden)

    from vit_jax.data.source import DataError
    from vit_jax.runs.folder import RunError, RunFolder
    from vit_jax.train.loop import train
    from vit_jax.train.setup import set_up
    from vit_jax.train.start import stored_config
    from vit_jax.train.stops import EXIT_CODES

    if arguments.resume == "must" and not arguments.workdir:
        raise RunError("--resume must: name the run folder to go on with, as --workdir=FOLDER")
    if arguments.resume == "must" and not Path(arguments.workdir or "").expanduser().is_dir():
        raise RunError(f"--resume must: there is no folder {arguments.workdir}")
    stored = None if arguments.resume == "never" else stored_config(arguments.workdir)
    job = set_up(
        config, overridden, stored
    )  # before the folder is made: a config that cannot work leaves none
    if arguments.workdir:
        folder = RunFolder(arguments.workdir)
    else:
        folder = RunFolder.numbered("runs", Path(path).stem)
    try:
        outcome = train(job, folder, arguments.resume)
    except (ConfigError, DataError):
        raise
    except ValueError as error:
        # Not the user's: it shows its traceback, and the exit code is 1.
        raise RuntimeError("the training failed; its checkpoints are in the run folder") from error
    if outcome.stopped_by is None:
        return 0
    overrides = _without(rest, "--workdir", "--resume")
    command = ["python", "train.py", "--config", path, *overrides, f"--workdir={folder.path}"]
    print(f"Stopped at step {outcome.summary['steps']}, saved. Go on with:")
    print(f"  {shlex.join(command)}")
    return EXIT_CODES[outcome.stopped_by]


def _take_config_path(argv: list[str]) -> tuple[str, list[str]]:
    """Split off --config FILE or --config=FILE; the other arguments are fields and flags."""
    path, rest, arguments = DEFAULT_CONFIG, [], iter(argv)
    for argument in arguments:
        if argument == "--config":
            path = next(arguments, "")
            if not path:
                raise ConfigError("--config: name a config file, such as configs/cifar10.py")
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    return path, rest


def _without(argv: list[str], *flags: str) -> list[str]:
    """The arguments without these flags and their values, "--flag=value" or "--flag value"."""
    kept, arguments = [], iter(argv)
    for argument in arguments:
        if argument in flags:
            next(arguments, None)
        elif argument.partition("=")[0] not in flags:
            kept.append(argument)
    return kept


def _parse(default: TrainArguments, argv: list[str]) -> TrainArguments:
    names = field_names(default.config)
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--config.")
        if argument.startswith("--config.") and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"perhaps --config.{near[0]}" if near else "--help lists them all"
            raise ConfigError(f"--config.{name}: there is no such field; {hint}")
    return tyro.cli(
        TrainArguments,
        default=default,
        args=argv,
        prog="train.py",
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _overrides(argv: list[str], field: str) -> bool:
    return any(argument.partition("=")[0] == f"--config.{field}" for argument in argv)


def _exit_code(command: Callable[[], int], debug: bool) -> int:
    """Run a command; say what people can mend in one message, without a traceback."""
    from vit_jax.runs.checkpoints import CheckpointError
    from vit_jax.runs.folder import RunError
    from vit_jax.sharding import DeviceError
    from vit_jax.train.report import TrainingError

    try:
        return command()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (TrainingError, CheckpointError) as error:
        return _fail(error, 1, debug)
    except (ValueError, DeviceError, RunError) as error:
        return _fail(error, 2, debug)


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"Error: {error}", file=sys.stderr)
    return code
