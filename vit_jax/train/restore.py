"""Load a run folder: the model, its weights, its config and its classes."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax

from vit_jax.config import Config, from_json
from vit_jax.data.catalog import open_source
from vit_jax.data.resident import ResidentFeed
from vit_jax.models import ViT
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError
from vit_jax.sharding import make_mesh, replicated, select_devices
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.setup import compile_eval_step, input_shape, make_recipe
from vit_jax.train.state import Params, init_state

Which = Literal["latest", "best"]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained model: `run.model.apply({"params": run.params}, normalised_images)`."""

    model: ViT
    params: Params
    """The moving average of the weights where the run keeps one, else the weights."""
    config: Config
    class_names: tuple[str, ...]
    step: int


def load_run(folder: str | Path, checkpoint: Which | int = "latest") -> LoadedRun:
    """Read a checkpoint of a run; needs neither the run's data nor its devices.

    Args:
      folder: the run folder, which holds config.json and checkpoints/.
      checkpoint: "latest", "best" (by held-out accuracy) or a step.

    Raises:
      RunError: it is no run folder, or has no such checkpoint.
      CheckpointError: the checkpoint cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() or not (folder / "checkpoints").is_dir():
        raise RunError(
            f"{folder} is no run folder: it should hold config.json and checkpoints/, as train.py "
            "leaves them"
        )
    config = from_json((folder / "config.json").read_text())
    model = config.model
    # The lengths shape the learning rate, not the structure of the state.
    recipe = make_recipe(config, total_steps=1, steps_per_epoch=1)
    start = functools.partial(
        init_state,
        model,
        recipe.optimizer,
        image_shape=input_shape(model),
        ema=config.optim.ema_decay is not None,
    )
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        step = checkpoint
        if step == "latest":
            step = checkpoints.latest_step()
        elif step == "best":
            step = checkpoints.best_step()
        if step is None:
            raise RunError(f"{folder} holds no checkpoint, or none with a held-out accuracy")
        like = jax.eval_shape(start, jax.random.key(0))
        sharding = replicated(make_mesh(select_devices("auto")))
        state, notes = checkpoints.restore(step, like, sharding)
    finally:
        checkpoints.close()
    params = state.params if state.ema is None else state.ema
    return LoadedRun(model, params, config, tuple(notes["class_names"]), step)


def evaluate_run(
    folder: str | Path, split: str | None = None, checkpoint: Which | int = "latest"
) -> tuple[int, str, Evaluation]:
    """Evaluate a run's model on a split of its data; None: its test split, or its held-out one.

    Returns:
      the checkpoint's step, the split, and the results.
    """
    run = load_run(folder, checkpoint)
    data = run.config.data
    split = split or data.test_split or data.eval_split
    if split is None:
        raise RunError(f"{folder} has no test split and no held-out split: name one")
    mesh = make_mesh(select_devices("auto"))
    batch_size = -(-run.config.batch_size // mesh.size) * mesh.size
    feed = ResidentFeed(open_source(data, split), batch_size, replicated(mesh))
    recipe = make_recipe(run.config, total_steps=1, steps_per_epoch=1)

    step = compile_eval_step(recipe, mesh, run.config.parallel)
    return run.step, split, evaluate(step, run.params, feed)
