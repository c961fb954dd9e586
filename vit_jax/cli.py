"""The commands: `python train.py …` and `vit-jax COMMAND …`.

Exit codes: 0 done; 1 failed while running; 2 the command or config is wrong; 130 after Ctrl-C; 141
where nobody reads the output to its end; 143 after SIGTERM.
"""

import dataclasses
import difflib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from vit_jax.commands import data
from vit_jax.commands.attention import attention
from vit_jax.commands.convert import convert
from vit_jax.commands.doctor import doctor
from vit_jax.commands.evaluate import evaluate
from vit_jax.commands.export import export
from vit_jax.commands.features import features
from vit_jax.commands.predict import predict
from vit_jax.commands.probe import probe
from vit_jax.commands.summary import summary
from vit_jax.config import Config, ConfigError, field_names, load_config, resolve_length
from vit_jax.train.loop import Resume

DEFAULT_CONFIG = "configs/digits.py"


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
        "attention": attention,
        "convert": convert,
        "data": data.main,
        "doctor": doctor,
        "evaluate": evaluate,
        "export": export,
        "features": features,
        "predict": predict,
        "probe": probe,
        "summary": summary,
    }
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    if argv[:1] == ["data"]:
        return _exit_code(lambda: data.main(argv[1:]), debug)
    return _exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="vit-jax", args=argv, use_underscores=True
        ),
        debug,
    )


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
    except BrokenPipeError:
        # Whoever read, such as `head`, has enough; what Python still holds back has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (TrainingError, CheckpointError, OSError) as error:
        return _fail(error, 1, debug)
    except (ValueError, DeviceError, RunError) as error:
        return _fail(error, 2, debug)


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"Error: {error}", file=sys.stderr)
    return code
