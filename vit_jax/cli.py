"""The commands: `python train.py …` and `vit-jax COMMAND …`.

Exit codes: 0 done; 1 failed while running; 2 the command or config is wrong; 130 after Ctrl-C; 141
where nobody reads the output to its end; 143 after SIGTERM.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from vit_jax.commands import data
from vit_jax.commands.arguments import TrainArguments, read_arguments
from vit_jax.commands.attention import attention
from vit_jax.commands.convert import convert
from vit_jax.commands.doctor import doctor, examine
from vit_jax.commands.evaluate import evaluate
from vit_jax.commands.export import export
from vit_jax.commands.features import features
from vit_jax.commands.predict import predict
from vit_jax.commands.probe import probe
from vit_jax.commands.summary import summary
from vit_jax.config import ConfigError
from vit_jax.launch import find_place
from vit_jax.processes import ProcessError, end_at_once, joined, leads

NOT_HELD = (
    "the device's memory does not hold the model's state and the images that lie there: share the "
    "state among devices (--config.fsdp), stream the images (--config.data.feed=streaming), or "
    "choose a smaller model"
)


def train_command(argv: Sequence[str] | None = None) -> int:
    """`python train.py …`: parse, train, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _exit_code(lambda: _train(argv), debug="--debug" in argv)
    except Exception:
        end_at_once(1, traceback.format_exc())
        raise
    # One of several processes that has met an error waits for nobody.
    end_at_once(code)
    return code


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
    if argv[:1] == ["doctor"] and any(argument.startswith("--config") for argument in argv):
        return _exit_code(lambda: _examine(argv[1:]), debug)
    return _exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="vit-jax", args=argv, use_underscores=True
        ),
        debug,
    )


def _examine(argv: list[str]) -> int:
    """`vit-jax doctor --config FILE`, with overrides and --workdir as train.py takes them."""
    _, _, arguments, overridden = read_arguments(argv)
    return examine(arguments.config, overridden, arguments.workdir)


def _train(argv: list[str]) -> int:
    from vit_jax.train.allocator import keep_freed_memory

    path, rest, arguments, overridden = read_arguments(argv)
    place = find_place(arguments.coordinator, arguments.num_processes, arguments.process_id)
    if place and not arguments.workdir:
        raise ValueError(
            f"{place.number} processes train as one: name a folder that all of them see, as "
            "--workdir=FOLDER"
        )
    keep_freed_memory(arguments.config.device)
    with joined(place, arguments.peer_timeout):
        return _train_here(path, rest, arguments, overridden)


def _train_here(
    path: str, rest: list[str], arguments: TrainArguments, overridden: list[str]
) -> int:
    """Train in this process, whether it is the only one or not."""
    from vit_jax.data.source import DataError
    from vit_jax.runs.folder import RunError, RunFolder, SilentFolder
    from vit_jax.runs.lock import refuse_if_locked
    from vit_jax.runs.quiet import discard_output
    from vit_jax.train.loop import train
    from vit_jax.train.setup import set_up
    from vit_jax.train.start import stored_config
    from vit_jax.train.stops import exit_code

    if arguments.resume == "must" and not arguments.workdir:
        raise RunError("--resume must: name the run folder to go on with, as --workdir=FOLDER")
    if arguments.resume == "must" and not Path(arguments.workdir or "").expanduser().is_dir():
        raise RunError(f"--resume must: there is no folder {arguments.workdir}")
    if arguments.workdir and leads():
        refuse_if_locked(Path(arguments.workdir).expanduser())
    stored = None if arguments.resume == "never" else stored_config(arguments.workdir)
    # Before the folder is made: a config that cannot work leaves none.
    job = set_up(arguments.config, overridden, stored)
    if arguments.workdir:
        folder = (RunFolder if leads() else SilentFolder)(arguments.workdir)
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
    try:
        print(f"Stopped at step {outcome.summary['steps']}, saved. Go on with:")
        print(f"  {shlex.join(command)}", flush=True)
    except BrokenPipeError:
        discard_output()  # the same Ctrl-C has ended `tee`, which changes nothing for the run
    return exit_code(outcome.stopped_by)


def _without(argv: list[str], *flags: str) -> list[str]:
    """The arguments without these flags and their values, "--flag=value" or "--flag value"."""
    kept, arguments = [], iter(argv)
    for argument in arguments:
        if argument in flags:
            next(arguments, None)
        elif argument.partition("=")[0] not in flags:
            kept.append(argument)
    return kept


def _exit_code(command: Callable[[], int], debug: bool) -> int:
    """Run a command; say what people can mend in one message, without a traceback."""
    from vit_jax.compilation import keep_compiled
    from vit_jax.runs.checkpoints import CheckpointError
    from vit_jax.runs.folder import RunError
    from vit_jax.runs.quiet import pass_over_closed_loops
    from vit_jax.sharding import DeviceError
    from vit_jax.train.memory import is_out_of_memory
    from vit_jax.train.report import TrainingError

    pass_over_closed_loops()
    keep_compiled()
    try:
        return command()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read, such as `head`, has enough; what Python still holds back has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (TrainingError, CheckpointError, ProcessError, OSError) as error:
        return _fail(error, 1, debug)
    except (ValueError, DeviceError, RunError) as error:
        return _fail(error, 2, debug)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _fail(MemoryError(f"{NOT_HELD} ({str(error).splitlines()[0]})"), 1, debug)


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"Error: {error}", file=sys.stderr)
    return code
