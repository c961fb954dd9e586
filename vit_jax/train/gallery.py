"""The pictures of a run, drawn in a thread of their own while the training goes on."""

import contextlib
import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import Config, to_json
from vit_jax.data.cache import whole_file
from vit_jax.data.encoded import spread
from vit_jax.models import grid_size
from vit_jax.models.patches import pair
from vit_jax.processes import share
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.sharding import on_this_process
from vit_jax.train.evaluate import Evaluation
from vit_jax.train.fill_in import input_shape
from vit_jax.train.programs import STOP, on_device
from vit_jax.train.report import Report
from vit_jax.train.setup import Job
from vit_jax.train.shown import (
    attention_maps,
    mixed_names,
    predictions_on,
    readable,
    visible,
)
from vit_jax.train.step import prepare

IN_A_BATCH = 32
"""Images of the mosaic."""
WATCHED = 4
"""Held-out images whose attention is drawn as training goes on."""
FRAMES = 20
"""Times that it is drawn, at most."""
PREDICTED = 24
"""Images shown with their predictions."""
SEARCHED = 2048
"""Held-out images among which the most confident mistakes are looked for."""

Shown = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images, labels, predictions and their probabilities."""


class Gallery:
    """Draws what a run shows. What is drawn never ends a run: a picture that fails is said."""

    def __init__(self, job: Job, folder: RunFolder, report: Report, start: int):
        self.job = job
        self.folder = folder
        self.report = report
        self.seconds = 0.0
        """Spent on drawing, beside the training."""
        self._drawn = start
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        if job.config.pictures:
            folder.pictures.mkdir(exist_ok=True)

    @property
    def held_out(self) -> Any:
        """The source that predictions and attention are shown of; None: there is none."""
        sources = self.job.sources
        return sources.get("eval") or sources.get("test")

    def first_batch(self, plan: Any, step: int) -> None:
        """Draw a training batch as the model sees it, and an image cut into its patches."""
        if not self.job.config.pictures or (self.folder.pictures / "batch.png").exists():
            return
        # A copy of little: what the feed sends is not changed afterwards, but is long.
        resident = self.job.train_feed.resident
        sharding = self.job.train_feed.sharding
        if share()[1] > 1:
            if sharding is not None and not sharding.is_fully_replicated:
                return  # the images are with the other processes as well, which do not draw
            resident = on_this_process(resident)
            plan.pop(STOP, None)
        if sharding is None or sharding.is_fully_replicated:
            plan = jax.tree.map(lambda array: np.array(array[:IN_A_BATCH]), plan)
        self._later(self._draw_batch, resident, plan, step)

    def after_evaluation(self, params: Any, done: int, accuracy: float) -> None:
        """Draw what the model attends to, where it is time for another frame."""
        job = self.job
        if not job.config.pictures or self.held_out is None:
            return
        if not is_frame(self._drawn, done, job.total_steps):
            return
        self._drawn = done
        # The next step reuses the buffers of these weights, so the thread gets its own.
        self._later(self._draw_attention, self._own(params), done, accuracy)

    def finish(self, params: Any, result: Evaluation | None, complete: bool) -> None:
        """Draw what only the end shows, and wait for all pictures."""
        if not self.job.config.pictures:
            return
        self._later(self._draw_curves)
        if complete:
            if share()[1] > 1:
                params = self._own(params)
            self._later(self._draw_weights, params)
            if self.held_out is not None:
                self._later(self._draw_predictions, params)
                self._later(self._draw_film)
            if result:
                self._later(self._draw_classes, result)
        self._pool.shutdown()

    def write_report(self) -> None:
        """Write report.html, when everything else is in the folder."""
        if not self.job.config.pictures:
            return
        from vit_jax.pictures.report import write_report

        self._guarded(write_report, self.folder.path, json.loads(to_json(Config())))

    def close(self, kind: type[BaseException] | None, *_: Any) -> None:
        """End the thread; what has not begun is not drawn. The end of an `ExitStack`'s context.

        A run that fails leaves its curves and its report all the same.
        """
        self._pool.shutdown(cancel_futures=True)
        if kind is not None and issubclass(kind, Exception) and self.job.config.pictures:
            self._guarded(self._draw_curves)
            self.write_report()

    def _own(self, params: Any) -> Any:
        """A copy of weights; of several processes, the one that draws computes with it alone."""
        return on_this_process(params) if share()[1] > 1 else _copy(params)

    def _later(self, draw: Callable[..., Any], *args: Any) -> None:
        self._pool.submit(self._guarded, draw, *args)

    def _guarded(self, draw: Callable[..., Any], *args: Any) -> None:
        if self.folder.silent:
            return
        began = time.perf_counter()
        try:
            draw(*args)
        except Exception as error:  # a run is worth more than its pictures
            name = draw.__name__.removeprefix("_draw_")
            with contextlib.suppress(OSError):  # a full disk, or nobody who reads
                self.report.say(f"NOTE: {name} could not be drawn: {error!r}")
        self.seconds += time.perf_counter() - began

    def _whole(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path to draw to, which becomes the picture when all of it is written."""
        file = self.folder.pictures / name
        file.parent.mkdir(exist_ok=True)
        return whole_file(file)

    def _draw_batch(self, resident: Any, plan: Any, step: int) -> None:
        from vit_jax.pictures.batch import draw_batch, draw_patches

        job, recipe = self.job, on_device(self.job.recipe, self.job.train_feed)

        @jax.jit
        def prepared(resident: Any, plan: Any, step: Any) -> Any:
            batch = job.train_feed.gather(resident, plan)
            return prepare(batch, recipe, step), batch["image"], batch["mask"]

        mixed, originals, mask = jax.device_get(prepared(resident, plan, step))
        there = np.flatnonzero(mask)[:IN_A_BATCH]
        images = mixed.images * np.array(recipe.std) + np.array(recipe.mean)
        shares = (
            array[there].tolist() for array in (mixed.labels, mixed.partner_labels, mixed.weight)
        )
        targets = [mixed_names(job.class_names, *each) for each in zip(*shares, strict=True)]
        first = visible(originals[there[:1]], originals.dtype)[0]
        with self._whole("patches.png") as path:
            draw_patches(first, pair(job.config.model.patch_size), path)
        with self._whole("batch.png") as path:
            draw_batch(visible(images[there], originals.dtype), targets, path)

    def _draw_attention(self, params: Any, done: int, accuracy: float) -> None:
        from vit_jax.pictures.attention import draw_progress, progress_title

        images = self._watched
        if not len(images):
            return
        averages, through, heads = jax.device_get(self._look(params, images))
        title = progress_title(round(done / self.job.steps_per_epoch, 2), accuracy)
        with self._whole(f"attention/step_{done:07d}.png") as path:
            draw_progress(visible(images, images.dtype), averages, through, heads, path, title)

    def _draw_film(self) -> None:
        from vit_jax.pictures.film import write_gif

        frames = sorted((self.folder.pictures / "attention").glob("step_*.png"))
        if len(frames) > 1:
            with self._whole("attention.gif") as path:
                write_gif(frames, path)

    def _draw_curves(self) -> None:
        from vit_jax.pictures.curves import draw_curves

        with self._whole("curves.png") as path:
            draw_curves(read_rows(self.folder.path), path)

    def _draw_weights(self, params: Any) -> None:
        from vit_jax.pictures.weights import draw_filters, draw_position_similarity

        model = self.job.config.model
        height, width, channels = input_shape(model)
        kernel = np.asarray(params["patch_embed"]["kernel"], np.float32)
        with self._whole("filters.png") as path:
            # Of shifted patches the first channels are the image's own, the others its copies'.
            draw_filters(kernel[:, :, :channels], path)
        if "pos_embed" in params:
            grid = grid_size((height, width), model.patch_size)
            positions = np.asarray(params["pos_embed"], np.float32)[0][-grid[0] * grid[1] :]
            with self._whole("positions.png") as path:
                draw_position_similarity(positions, grid, path)

    def _draw_predictions(self, params: Any) -> None:
        from vit_jax.pictures.predictions import draw_mistakes, draw_predictions, surest_mistakes

        config, source, names = self.job.config, self.held_out, self.job.class_names
        # The first of all, and others spread over the rest.
        chosen = sorted({*range(min(PREDICTED, len(source))), *spread(len(source), SEARCHED)})
        there, predictions, probabilities = predictions_on(config, params, source, chosen)
        labels = source.labels[there]

        def shown(rows: np.ndarray) -> Shown:
            _, images = readable(source, there[rows].tolist())
            images = visible(images, images.dtype)
            return images, labels[rows], predictions[rows], probabilities[rows]

        if not len(there):
            return
        first = np.arange(min(PREDICTED, len(there)))
        with self._whole("predictions.png") as path:
            draw_predictions(*shown(first), names, path)
        worst = surest_mistakes(labels, predictions, probabilities)
        if len(worst):
            among = int((labels != predictions).sum()), len(labels)
            with self._whole("mistakes.png") as path:
                draw_mistakes(*shown(worst), names, path, among)

    def _draw_classes(self, result: Evaluation) -> None:
        from vit_jax.pictures.classes import draw_per_class
        from vit_jax.pictures.confusion import draw_confusion

        names, confusion = self.job.class_names, result.confusion
        with self._whole("confusion_matrix.png") as path:
            draw_confusion(confusion, names, path)
        accuracy = np.array([np.nan if x is None else x for x in result.per_class_accuracy])
        with self._whole("per_class.png") as path:
            draw_per_class(accuracy, confusion.sum(axis=1), names, path)

    @functools.cached_property
    def _watched(self) -> np.ndarray:
        number = min(4 * WATCHED, len(self.held_out))  # some may hold no picture
        return readable(self.held_out, range(number))[1][:WATCHED]

    @functools.cached_property
    def _look(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(attention_maps, self.job.config))


def is_frame(drawn: int, done: int, total: int) -> bool:
    """Whether attention is drawn after `done` steps, having last been drawn after `drawn`."""
    return FRAMES * done // total > FRAMES * drawn // total


@jax.jit
def _copy(params: Any) -> Any:
    return jax.tree.map(jnp.copy, params)
