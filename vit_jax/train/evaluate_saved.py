"""Evaluate what is on disk: a run folder, or published weights."""

import dataclasses
import os
from pathlib import Path

from vit_jax.config import Config
from vit_jax.data.catalog import open_source
from vit_jax.data.resident import ResidentFeed
from vit_jax.data.source import ArraySource, DataConfig, DataError
from vit_jax.runs.folder import RunError, is_run_folder
from vit_jax.sharding import make_mesh, replicated, select_devices
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.setup import compile_eval_step, make_recipe
from vit_jax.train.state import Params
from vit_jax.weights.load import load_pretrained
from vit_jax.weights.run_folder import Which, load_run


def evaluate_saved(
    source: str | os.PathLike[str],
    data: DataConfig | None = None,
    split: str | None = None,
    checkpoint: Which | int = "latest",
) -> tuple[str, Evaluation]:
    """Evaluate a model on a split, every image once.

    Args:
      source: a run folder, or weights as `load_pretrained` takes them.
      data: on what; None: the data of the run. Its mean and std are those of the weights.
      split: None: the test split of the data, else its held-out one.
      checkpoint: of a run folder.

    Returns:
      the name of what was evaluated and on what, and the results.

    Raises:
      RunError, WeightsError, DataError: there is no such model or data, or they do not fit.
    """
    path = Path(source).expanduser()
    if is_run_folder(path):
        config, names, params, label = _from_run(path, data, checkpoint)
    else:
        config, names, params, label = _from_weights(source, data)
    split = split or config.data.test_split or config.data.eval_split
    if split is None:
        raise RunError(f"{source} has no test split and no held-out split: name one")
    images = open_source(config.data, split)
    _check_classes(config, names, images, os.fspath(source))

    mesh = make_mesh(select_devices(config.device))
    batch_size = -(-config.batch_size // mesh.size) * mesh.size
    feed = ResidentFeed(images, batch_size, replicated(mesh))
    recipe = make_recipe(config, total_steps=1, steps_per_epoch=1)
    step = compile_eval_step(recipe, mesh, config.parallel)
    return f"{label}, {split}", evaluate(step, params, feed)


def _from_run(
    path: Path, data: DataConfig | None, checkpoint: Which | int
) -> tuple[Config, tuple[str, ...], Params, str]:
    run = load_run(path, checkpoint)
    there = run.config.data
    if data is not None:
        size = there.image_size or run.model.image_size
        data = dataclasses.replace(data, mean=there.mean, std=there.std, image_size=size)
    # Wherever it was trained, it is evaluated on what is here.
    config = dataclasses.replace(run.config, data=data or there, device="auto")
    return config, run.class_names, run.params, f"{path}, checkpoint {run.step}"


def _from_weights(
    source: str | os.PathLike[str], data: DataConfig | None
) -> tuple[Config, tuple[str, ...] | None, Params, str]:
    model, variables, spec = load_pretrained(source)
    if data is None:
        raise DataError(f"{source}: name the data to evaluate on, as --data NAME or --data FOLDER")
    data = dataclasses.replace(data, mean=spec.mean, std=spec.std, image_size=spec.image_size)
    config = Config(model=model, data=data)
    return config, spec.class_names, variables["params"], os.fspath(source)


def _check_classes(
    config: Config, names: tuple[str, ...] | None, images: ArraySource, source: str
) -> None:
    """Raise a DataError where the model's outputs do not stand for the data's classes."""
    outputs, classes = config.model.num_classes, images.class_names
    if outputs != len(classes):
        raise DataError(
            f"{source} tells {outputs or 'no'} classes apart, {config.data.name} has "
            f"{len(classes)}: a head for those would be untrained, and its accuracy chance. "
            f"Fine-tune first: python train.py --config CONFIG --config.pretrained={source}"
        )
    if names is None or names == classes:
        return
    if sorted(names) == sorted(classes):
        raise DataError(
            f"{source} has the classes of {config.data.name} in another order, {names} instead "
            f"of {classes}: its labels would be mixed up"
        )
    print(
        f"NOTE: {source} calls its classes {', '.join(names[:4])} …, {config.data.name} "
        f"{', '.join(classes[:4])} …: taken for the same, in this order"
    )
