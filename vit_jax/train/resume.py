"""Where a run begins: at its first step, or at the newest checkpoint of its folder."""

import json
import shutil
from collections.abc import Callable
from typing import Any, Literal

import jax

from vit_jax.config import RESUMABLE, Config, ConfigError, differences, from_json
from vit_jax.processes import agree
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError, RunFolder
from vit_jax.train.setup import Job
from vit_jax.train.state import TrainState

Resume = Literal["auto", "must", "never"]
Say = Callable[[str], None]


def open_state(
    job: Job, folder: RunFolder, checkpoints: Checkpoints, resume: Resume, say: Say
) -> tuple[TrainState, dict[str, Any]]:
    """The initial state, or that of the newest checkpoint and the notes saved with it.

    Raises:
      ConfigError, RunError: the folder does not allow what is asked for.
      CheckpointError: there are checkpoints, and none can be used.
    """
    newest = checkpoints.latest_step()
    stored = folder.path / "config.json"
    if newest is None:
        if resume == "never" and stored.exists():
            raise RunError(
                f"--resume never: {folder.path} holds a run without checkpoints; choose another "
                "--workdir"
            )
        if resume == "must":
            raise RunError(
                f"--resume must: {folder.path} holds no checkpoint, but {_contents(folder)}; name "
                "the run folder to go on with, or start with --resume auto"
            )
        return job.initial_state(), {}
    if resume == "never":
        raise RunError(
            f"--resume never: {folder.path} holds a run at step {newest}; go on with --resume "
            "auto, or choose another --workdir"
        )
    if stored.exists():
        try:
            before = from_json(stored.read_text())
        except (ConfigError, UnicodeDecodeError):
            say(f"WARNING: {stored} is damaged: what the checkpoint says of the config is taken")
        else:
            _check_same_run(before, job.config, folder, say)
    state, notes = restored_state(job, folder, checkpoints, say)
    # The file may have been lost or changed meanwhile; what was learnt was learnt with this one.
    if "config" in notes:
        _check_same_run(from_json(json.dumps(notes["config"])), job.config, folder, folder.log)
    return state, notes


def restored_state(
    job: Job, folder: RunFolder, checkpoints: Checkpoints, say: Say
) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint that is what was saved; where there is none yet, the initial state.

    Raises:
      RunError: it was trained on other data.
      CheckpointError: there are checkpoints, and none can be used.
    """
    agree("the checkpoints that there are", checkpoints.steps())
    found = checkpoints.restore_newest(job.state_shapes, job.sharding, say)
    if found is None:
        return job.initial_state(), {}
    before, now = found[1]["data"], job.fingerprints
    changed = sorted(use for use in before.keys() | now.keys() if before.get(use) != now.get(use))
    if changed:
        raise RunError(
            f"{folder.path} was trained on other data: the images or labels of "
            f"{', '.join(changed)} have changed. Bring them back, or choose another --workdir"
        )
    return found


def check_space(job: Job, folder: RunFolder, checkpoints: Checkpoints) -> None:
    """Raise a RunError unless the disk has room for the checkpoints to come.

    That is those to keep, the best one, and one that is being written, less those that are there.
    """
    arrays = jax.tree.leaves(job.state_shapes)
    bytes_of_one = sum(array.size * array.dtype.itemsize for array in arrays)
    at_once = job.config.keep_checkpoints + 1 + (job.eval_feed is not None)
    to_come = max(1, at_once - len(checkpoints.steps()))
    needed, free = to_come * bytes_of_one, shutil.disk_usage(folder.path).free
    if free < needed and not folder.silent:
        raise RunError(
            f"{folder.path}: {free / 1e6:,.0f} MB are free, and {to_come} checkpoints of "
            f"{bytes_of_one / 1e6:,.0f} MB need {needed / 1e6:,.0f} MB: make room, choose another "
            "--workdir, or a smaller --config.keep_checkpoints"
        )


def complete_summary(job: Job, folder: RunFolder, start: int) -> dict[str, Any] | None:
    """The summary of a run that is complete already; None where there is something left to do.

    Raises:
      RunError: the run is beyond the length asked for.
    """
    summary = folder.path / "summary.json"
    if start > job.total_steps:
        raise RunError(
            f"{folder.path} holds a run at step {start}, beyond the {job.total_steps} steps asked "
            "for: ask for more, or choose another --workdir"
        )
    if start < job.total_steps or not summary.exists():
        return None
    try:
        found = json.loads(summary.read_text())
    except ValueError:
        return None  # damaged: the end of the run writes it anew
    known = isinstance(found, dict) and {"test_accuracy", "eval_accuracy"} <= found.keys()
    if not known or (found.get("status"), found.get("steps")) != ("complete", start):
        return None
    return found


def _check_same_run(old: Config, new: Config, folder: RunFolder, say: Say) -> None:
    """Say what differs and may; raise a ConfigError where something differs that must not."""
    changed = differences(old, new)
    if refused := {name: values for name, values in changed.items() if name not in RESUMABLE}:
        raise ConfigError(
            f"{folder.path} holds a run with another config; go on with that one, or choose "
            f"another --workdir:\n{_lines(refused)}"
        )
    if changed:
        say(f"Going on with another config than before:\n{_lines(changed)}")


def _lines(changed: dict[str, tuple[Any, Any]]) -> str:
    return "\n".join(
        f"  {name}: {before!r} there, {after!r} now" for name, (before, after) in changed.items()
    )


def _contents(folder: RunFolder, most: int = 8) -> str:
    """What is in the folder, in words."""
    names = sorted(
        path.name
        for path in folder.path.iterdir()
        # Not the log and the folder for checkpoints, which have just been made.
        if any(path.iterdir() if path.is_dir() else [path.stat().st_size])
        and not path.name.startswith(".")
    )
    if not names:
        return "is empty"
    return f"{', '.join(names[:most])}{' and more' if len(names) > most else ''}"
