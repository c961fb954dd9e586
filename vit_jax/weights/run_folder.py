"""Load a run folder: the model, its weights, its config and its classes."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from vit_jax.config import Config, from_json
from vit_jax.models import ViT
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError, is_run_folder
from vit_jax.sharding import make_mesh, replicated, select_devices

Which = Literal["latest", "best"]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained model: `run.model.apply({"params": run.params}, normalised_images)`."""

    model: ViT
    params: Any
    """The moving average of the weights where the run keeps one, else the weights."""
    config: Config
    class_names: tuple[str, ...]
    step: int


def load_run(folder: str | os.PathLike[str], checkpoint: Which | int = "latest") -> LoadedRun:
    """Read the weights of a run; needs neither its data nor its devices.

    Args:
      folder: the run folder, which holds config.json and checkpoints/.
      checkpoint: "latest", "best" (by held-out accuracy) or a step.

    Raises:
      RunError: it is no run folder, or has no such checkpoint.
      CheckpointError: the checkpoint cannot be read.
    """
    folder = Path(folder)
    if not is_run_folder(folder):
        raise RunError(
            f"{folder} is no run folder: it should hold config.json and checkpoints/, as train.py "
            "leaves them"
        )
    config = from_json((folder / "config.json").read_text())
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        step = checkpoint
        if step == "latest":
            step = checkpoints.latest_step()
        elif step == "best":
            step = checkpoints.best_step()
        if step is None:
            raise RunError(f"{folder} holds no checkpoint, or none with a held-out accuracy")
        sharding = replicated(make_mesh(select_devices("auto")))
        params, notes = checkpoints.restore_weights(step, sharding)
    finally:
        checkpoints.close()
    return LoadedRun(config.model, params, config, tuple(notes["class_names"]), step)
