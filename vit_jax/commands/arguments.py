"""What `train.py` takes: a config, fields that override it, flags; all mistakes in one message."""

import contextlib
import dataclasses
import io
import itertools
import shlex
from collections.abc import Sequence

import tyro

from vit_jax.config import Config, ConfigError, field_names, load_config, resolve_length
from vit_jax.config_checks import problems
from vit_jax.fields import expected, near_name
from vit_jax.processes import PEER_SECONDS
from vit_jax.train.resume import Resume

DEFAULT_CONFIG = "configs/digits.py"
PROCESSES = tuple(
    f"--{sign.join(words)}"
    for words in (["coordinator"], ["num", "processes"], ["process", "id"], ["peer", "timeout"])
    for sign in ("-", "_")
)
FLAGS = ("--debug", "--no-debug", "--no_debug", "--help", "-h")


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a Vision Transformer. --config FILE chooses the config (default: configs/digits.py);
    --config.FIELD=VALUE overrides a field."""

    config: tyro.conf.FlagConversionOff[Config]
    workdir: str | None = None
    """Folder of the run. Default: a fresh numbered folder under runs/."""
    resume: Resume = "auto"
    """auto: go on if the folder holds checkpoints; must: fail unless it does; never: fail if so."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes train as one; SLURM and Open MPI tell it."""
    num_processes: int | None = None
    """The number of those processes."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    peer_timeout: int = PEER_SECONDS
    """Seconds without a sign of life after which a process is taken for dead, and the job ends."""
    debug: bool = False
    """Show the traceback of an error."""


def read_arguments(argv: Sequence[str]) -> tuple[str, list[str], TrainArguments, list[str]]:
    """The config's path, the other arguments, what they mean, and the names of fields overridden.

    Raises:
      ConfigError: arguments or config file cannot be read; names all that is wrong.
      SystemExit: help was asked for, and has been printed.
    """
    path, rest, wrong = take_config_path(argv)
    try:
        default = TrainArguments(load_config(path))
    except ConfigError as error:
        wrong += error.args
        # Any config that makes sense, to read the other arguments by.
        default = TrainArguments(Config(epochs=1))
    options = {_option(argument) for argument in rest}
    overridden = [name for name in field_names(default.config) if f"--config.{name}" in options]
    if {"--help", "-h"}.isdisjoint(rest):
        wrong += _unreadable(default, rest)
    if wrong:
        raise ConfigError(*wrong)
    arguments = _parse(default, rest)
    config = resolve_length(arguments.config, overridden)
    return path, rest, dataclasses.replace(arguments, config=config), overridden


def take_config_path(argv: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Split off --config FILE or --config=FILE.

    Returns:
      the path; the other arguments, which are fields and flags; and what is wrong, a line each.
    """
    paths, rest, wrong = [], [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--config":
            named = arguments and not arguments[0].startswith("--")
            paths.append(arguments.pop(0) if named else "")
        elif argument.startswith("--config="):
            paths.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if len(paths) > 1:
        wrong.append(f"--config: given twice, {shlex.join(paths)}: keep one")
    if "" in paths:
        wrong.append("--config: name a config file, such as configs/cifar10.py")
    return next(filter(None, paths), DEFAULT_CONFIG), rest, wrong


def _unreadable(default: TrainArguments, argv: list[str]) -> list[str]:
    """A line on every argument that cannot be read, and on what the others make of the config."""
    names = [f"--config.{name}" for name in field_names(default.config)]
    known = [*names, "--workdir", "--resume", *PROCESSES, *FLAGS]
    wrong, doubtful, readable = [], [], []
    for group in _groups(argv):
        option = _option(group[0])
        if option in known:
            readable.append(group)
        else:
            wrong.append(_unknown(group, names))
            doubtful.append(near_name(option, known) or option)
    if _can_parse(default, [*itertools.chain(*readable)]):
        good = readable
    else:
        good = [group for group in readable if _can_parse(default, group)]
        bad = [group for group in readable if group not in good]
        wrong += map(_wrong_value, bad)
        doubtful += [_option(group[0]) for group in bad]
    return wrong and wrong + _also_wrong(default, [*itertools.chain(*good)], doubtful)


def _groups(argv: list[str]) -> list[list[str]]:
    """Every option with its values; words that belong to none stand alone."""
    groups: list[list[str]] = []
    for argument in argv:
        last = groups[-1][0] if groups else ""
        takes = last.startswith("--") and "=" not in last and last not in FLAGS
        if takes and not argument.startswith("--"):
            groups[-1].append(argument)
        else:
            groups.append([argument])
    return groups


def _option(argument: str) -> str:
    return argument.partition("=")[0]


def _unknown(group: list[str], names: list[str]) -> str:
    """What to say of an argument that is none of ours."""
    written, option = shlex.join(group), _option(group[0])
    if not option.startswith("-"):
        file = option.endswith((".py", ".json"))
        hint = f"a config file is named as --config {written}" if file else "--help lists them all"
        return f"{written}: arguments begin with --; {hint}"
    inside = [name for name in names if name.startswith(f"{option}.")]
    if inside:
        return f"{written}: name a field of it, such as {inside[0]}"
    near = near_name(option, [*names, "--workdir", "--resume", "--config", *PROCESSES, *FLAGS])
    hint = f"perhaps {near}" if near else "--help lists them all"
    return f"{written}: there is no such field; {hint}"


def _wrong_value(group: list[str]) -> str:
    option = _option(group[0]).removeprefix("--")
    if option in ("debug", "no-debug", "no_debug", "help"):
        return f"{shlex.join(group)}: takes no value"
    return f"{shlex.join(group)}: {expected(TrainArguments, option)}"


def _also_wrong(default: TrainArguments, argv: list[str], doubtful: list[str]) -> list[str]:
    """What does not go together in the fields that can be read, where no other has a part in it."""
    arguments = _parse(default, argv)
    overridden = [_option(each).removeprefix("--config.") for each in argv]
    found = problems(resolve_length(arguments.config, overridden), overridden)
    fields = [option.rpartition(".")[2] for option in doubtful]
    return [line for line in found if not any(f"{field}=" in line for field in fields)]


def _can_parse(default: TrainArguments, argv: list[str]) -> bool:
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            _parse(default, argv)
    except SystemExit:
        return False
    return True


def _parse(default: TrainArguments, argv: list[str]) -> TrainArguments:
    return tyro.cli(
        TrainArguments,
        default=default,
        args=argv,
        prog="train.py",
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands,),
    )
