"""`vit-jax doctor`."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import vit_jax
from vit_jax.config import Config, load_config

if TYPE_CHECKING:
    from vit_jax.train.setup import Job


def doctor(config: Path | None = None) -> int:
    """Say what this machine offers: versions, devices, where data is looked for, room for runs.

    Args:
      config: a config file, whose training is examined too: data, checkpoints, memory. Fields are
        overridden as for train.py: --config.FIELD=VALUE.
    """
    return examine(load_config(config) if config else None)


def examine(
    config: Config | None, overridden: Sequence[str] = (), workdir: str | None = None
) -> int:
    """Print what there is, and what a training with this config would need.

    Args:
      overridden: as `set_up` takes it.
      workdir: the folder of the run; None: one under runs/.

    Returns:
      the exit code: 1 where the training would not work.
    """
    _print_machine()
    folder = Path(workdir).expanduser() if workdir else Path("runs")
    fine = _print_run_folder(folder)
    if config is None:
        return 0 if fine else 1

    from vit_jax.train.setup import set_up

    job = set_up(config, overridden)
    try:
        fine &= _print_checkpoints(job, folder)
        fine &= _print_memory(job)
    finally:
        for feed in job.feeds:
            feed.close()
    return 0 if fine else 1


def _print_machine() -> None:
    from importlib.metadata import version

    import jax

    from vit_jax.data.tfds_source import data_dir
    from vit_jax.sharding import overlooked_gpu

    _line("vit_jax", vit_jax.__version__)
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"):
        _line(name, version(name))
    _line("python", sys.version.split()[0])
    devices = jax.local_devices()
    for device in devices:
        _line("device", f"{device.platform}:{device.id}  {device.device_kind}")
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists():
        _line("NVIDIA driver", driver.read_text().splitlines()[0])
    if advice := overlooked_gpu(devices):
        _line("NOTE", advice)
    folder = data_dir(None)
    _line("TFDS data", f"{folder}{'' if folder.is_dir() else '  (not there yet)'}")


def _print_run_folder(folder: Path) -> bool:
    """Where runs go, and whether files can be written there."""
    _line("run folders" if folder == Path("runs") else "run folder", str(folder.resolve()))
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1))
    except OSError as error:
        _line("writing", f"NO: {there} cannot be written ({error.strerror}): choose --workdir")
        return False
    _line("writing", f"{there} can be written")
    _line("disk", f"{_words(shutil.disk_usage(there).free)} free")
    return True


def _print_checkpoints(job: "Job", folder: Path) -> bool:
    """What checkpoints take, and whether the disk has it: as `check_space` does."""
    from vit_jax.train.memory import state_bytes

    size = sum(state_bytes(job).values())
    count = job.config.keep_checkpoints + 1 + (job.eval_feed is not None)
    free = shutil.disk_usage(_existing(folder)).free
    needed = f"{count} of {_words(size)}, {_words(size * count)} in all"
    if free < size * count:
        _line("checkpoints", f"NO ROOM: {needed}, and {_words(free)} are free")
        return False
    _line("checkpoints", f"{needed}: there is room")
    return True


def _print_memory(job: "Job") -> bool:
    """The tables of memory; returns whether a step fits a device."""
    import dataclasses

    from vit_jax.train.memory import (
        LESS,
        USABLE,
        batch_unit,
        device_limit,
        measure,
        resident_bytes,
        setting_of,
        state_bytes,
    )

    setting, limit, devices = setting_of(job), device_limit(job.devices), job.devices
    print(f"\nMemory of a training step on each of {len(devices)} {devices[0].device_kind} devices")
    for name, size in state_bytes(job).items():
        _line(name, f"{_words(size):>10}")
    _line("resident images", f"{_words(resident_bytes(job)):>10}")
    need = measure(job)
    if need is None:
        print("This backend does not tell what its programs need.")
        return True
    fits = need.total <= USABLE * limit
    note = f"with batch_size={setting.batch_size}, {_words(need.per_image)} an image"
    _line("activations", f"{_words(need.activations):>10}  {note}")
    verdict = f"{USABLE:.0%} of {_words(limit)}: {'fits' if fits else 'DOES NOT FIT'}"
    _line("total", f"{_words(need.total):>10}  {verdict}")

    print(f"\n{'':<36}{'activations':>12}{'total':>12}{'largest batch_size':>22}")
    settings = {"as it is": setting}
    for word in LESS[setting.remat]:
        settings[f"--config.model.remat={word}"] = dataclasses.replace(setting, remat=word)
    for parts in (2 * setting.accumulate_steps, 4 * setting.accumulate_steps):
        if setting.batch_size % (len(devices) * parts) == 0:
            settings[f"--config.accumulate_steps={parts}"] = dataclasses.replace(
                setting, accumulate_steps=parts
            )
    for name, other in settings.items():
        found = need if other == setting else measure(job, other)
        assert found is not None, "the backend has told it before"
        unit = batch_unit(job, other.accumulate_steps)
        largest = (
            f"{found.largest_batch(USABLE * limit, unit):,}" if found.per_image > 0 else "not known"
        )
        sizes = f"{_words(found.activations):>12}{_words(found.total):>12}"
        print(f"{name:<36}{sizes}{largest:>22}", flush=True)
    return fits


def _line(name: str, value: str) -> None:
    print(f"{name:<18}{value}", flush=True)


def _words(size: float) -> str:
    from vit_jax.train.memory import in_words

    return in_words(size)


def _existing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    folder = folder.resolve()
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder
