"""Evaluate what is on disk: a run folder, or published weights."""

import contextlib
import dataclasses
import os

import numpy as np

from vit_jax.data.catalog import AnySource, open_source, open_splits
from vit_jax.data.feeds import make_feed, settle
from vit_jax.data.order import Order
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference.saved import SavedModel, open_model
from vit_jax.ops.test_time import TestTime
from vit_jax.runs.folder import RunError
from vit_jax.sharding import batch_sharded, make_mesh, replicated, select_devices
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.programs import compile_eval_step
from vit_jax.train.setup import make_recipe
from vit_jax.weights.run_folder import Which

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
    saved = open_model(source, checkpoint)
    config = dataclasses.replace(saved.config, data=data_for(saved, data))
    use, images = _images(config.data, split, saved.source)
    _check_classes(saved, config.data, images)
    _check_head(saved)
    check_depth(saved, images)

    mesh = make_mesh(select_devices(config.device))
    batch_size = -(-config.batch_size // mesh.size) * mesh.size
    settled, resident = settle(config.data, {use: images}, replicated(mesh), batch_sharded(mesh))
    order = Order(len(images), batch_size)
    feed = make_feed(config.data, settled[use], order, resident, evaluates=True)
    recipe = make_recipe(config, total_steps=1, steps_per_epoch=1)
    step = compile_eval_step(recipe, mesh, config.parallel, feed, test_time)
    with contextlib.closing(feed):
        result = evaluate(step, {"": saved.params}, feed)[""]
    if feed.bad_images:
        print(f"NOTE: {len(feed.bad_images)} files without a picture are left out")
    return f"{saved.label}, {use}", result


def data_for(saved: SavedModel, data: DataConfig | None) -> DataConfig:
    """The data to evaluate on, read and resized as in the training."""
    there = saved.config.data
    if data is None and saved.is_run:
        return there
    if data is None:
        raise DataError(
            f"{saved.source}: name the data to evaluate on, as --data NAME or --data FOLDER"
        )
    return dataclasses.replace(
        there,
        **{name: getattr(data, name) for name in WHERE},
        image_size=there.image_size or saved.model.image_size,
        channels=saved.model.channels,
    )


def check_depth(saved: SavedModel, images: AnySource) -> None:
    """Raise a DataError where a model of floats meets integers, or the other way round."""
    if saved.is_run and (saved.dtype == "float32") != (images.dtype.kind == "f"):
        raise DataError(
            f"{saved.source} was trained on {saved.dtype} images, and these are {images.dtype}: "
            "their ranges cannot be told apart"
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


def _check_classes(saved: SavedModel, data: DataConfig, images: AnySource) -> None:
    """Raise a DataError where the model's outputs do not stand for the data's classes."""
    names, classes, outputs = saved.class_names, images.class_names, saved.model.num_classes
    source = saved.source
    if outputs != len(classes):
        raise DataError(
            f"{source} tells {outputs or 'no'} classes apart, {data.name} has "
            f"{len(classes)}: a head for those would be untrained, and its accuracy chance. "
            f"{_remedy(source)}"
        )
    if names is None or names == classes:
        return
    if sorted(names) == sorted(classes):
        raise DataError(
            f"{source} has the classes of {data.name} in another order, {names} instead "
            f"of {classes}: its labels would be mixed up"
        )
    print(
        f"NOTE: {source} calls its classes {', '.join(names[:4])} …, {data.name} "
        f"{', '.join(classes[:4])} …: taken for the same, in this order"
    )


def _check_head(saved: SavedModel) -> None:
    """Raise a DataError where published weights have the head that `load_pretrained` makes anew."""
    # A run is what it is: it says itself where it has learnt nothing yet.
    if saved.is_run or np.any(saved.params["head"]["kernel"]):
        return
    raise DataError(
        f"{saved.source} has a head of zeros, as one made anew has before it is trained: its "
        f"accuracy would be chance. {_remedy(saved.source)}"
    )


def _remedy(source: str) -> str:
    return f"Fine-tune first: python train.py --config CONFIG --config.pretrained={source}"
