"""Evaluate what is on disk: a run folder, or published weights."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

from vit_jax.config import Config
from vit_jax.data.catalog import AnySource, open_source, open_splits
from vit_jax.data.feeds import make_feed, settle
from vit_jax.data.order import Order
from vit_jax.data.source import DataConfig, DataError
from vit_jax.ops.test_time import TestTime
from vit_jax.runs.folder import RunError, is_run_folder
from vit_jax.sharding import batch_sharded, make_mesh, replicated, select_devices
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.setup import compile_eval_step, make_recipe
from vit_jax.train.state import Params
from vit_jax.weights.load import load_pretrained
from vit_jax.weights.run_folder import Which, load_run

WHERE = (
    *("name", "root", "train_split", "eval_split", "test_split", "holdout", "holdout_seed"),
    *("image_column", "label_column", "image_path", "feed", "cache"),
)
"""Fields of the data that say which images, not what they become."""


def evaluate_saved(
    source: str | os.PathLike[str],
    data: DataConfig | None = None,
    split: str | None = None,
    checkpoint: Which | int = "latest",
    test_time: TestTime = "none",
) -> tuple[str, Evaluation]:
    """Evaluate a model on a split, every image once.

    Args:
      source: a run folder, or weights as `load_pretrained` takes them.
      data: on what; None: the data of the run. Its mean and std are those of the weights.
      split: None: the test split of the data, else its held-out one.
      checkpoint: of a run folder.
      test_time: views of each image whose logits are averaged.

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
    use, images = _images(config.data, split, os.fspath(source))
    _check_classes(config, names, images, os.fspath(source))

    mesh = make_mesh(select_devices(config.device))
    batch_size = -(-config.batch_size // mesh.size) * mesh.size
    _check_depth(path, images)
    settled, resident = settle(config.data, {use: images}, replicated(mesh), batch_sharded(mesh))
    order = Order(len(images), batch_size)
    feed = make_feed(config.data, settled[use], order, resident, evaluates=True)
    recipe = make_recipe(config, total_steps=1, steps_per_epoch=1)
    step = compile_eval_step(recipe, mesh, config.parallel, feed, test_time)
    with contextlib.closing(feed):
        result = evaluate(step, {"": params}, feed)[""]
    if feed.bad_images:
        print(f"NOTE: {len(feed.bad_images)} files without a picture are left out")
    return f"{label}, {use}", result


def _check_depth(path: Path, images: AnySource) -> None:
    """Raise a DataError where a run on floats meets integers, or the other way round."""
    facts = path / "data.json"
    if not facts.exists():
        return
    trained = json.loads(facts.read_text())["train"]["dtype"]
    if (trained == "float32") != (images.dtype.kind == "f"):
        raise DataError(
            f"{path} was trained on {trained} images, and these are {images.dtype}: their ranges "
            "cannot be told apart"
        )


def _images(data: DataConfig, split: str | None, source: str) -> tuple[str, AnySource]:
    """The split to evaluate on, and what it is called."""
    if split:
        return split, open_source(data, split)
    opened = open_splits(data)
    use = "test" if "test" in opened else "eval"
    if use not in opened:
        raise RunError(f"{source} has no test split and no held-out split: name one")
    name = data.test_split if use == "test" else data.eval_split
    return use if name in (None, "auto") else name, opened[use]


def _from_run(
    path: Path, data: DataConfig | None, checkpoint: Which | int
) -> tuple[Config, tuple[str, ...], Params, str]:
    run = load_run(path, checkpoint)
    there = run.config.data
    if data is not None:
        # Read and resized as in the training; only where the images are is another matter.
        data = dataclasses.replace(
            there,
            **{name: getattr(data, name) for name in WHERE},
            image_size=there.image_size or run.model.image_size,
            channels=run.model.channels,
        )
    # Wherever it was trained, it is evaluated on what is here.
    config = dataclasses.replace(run.config, data=data or there, device="auto")
    return config, run.class_names, run.params, f"{path}, checkpoint {run.step}"


def _from_weights(
    source: str | os.PathLike[str], data: DataConfig | None
) -> tuple[Config, tuple[str, ...] | None, Params, str]:
    model, variables, spec = load_pretrained(source)
    if data is None:
        raise DataError(f"{source}: name the data to evaluate on, as --data NAME or --data FOLDER")
    channels = model.channels
    data = dataclasses.replace(
        data, mean=spec.mean, std=spec.std, image_size=spec.image_size, channels=channels
    )
    config = Config(model=model, data=data)
    return config, spec.class_names, variables["params"], os.fspath(source)


def _check_classes(
    config: Config, names: tuple[str, ...] | None, images: AnySource, source: str
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
