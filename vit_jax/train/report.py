"""What a run tells: rows for the metrics files, lines for people, seconds for the summary."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vit_jax.processes import share
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import MetricWriter
from vit_jax.train.evaluate import Evaluation
from vit_jax.train.programs import STOP
from vit_jax.train.progress import Progress
from vit_jax.train.setup import Job

SKIPS_IN_A_ROW = 10
"""So many steps without an update are borne with `on_nan="skip"`; more end the run."""


class TrainingError(RuntimeError):
    """The training cannot go on; the message says at which step and why."""


class NotFiniteError(TrainingError):
    """The loss or the gradient of a step, or a loss of an evaluation, is not finite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
        """Counted from 1."""


class Report:
    """Takes each step's metrics while the next step already runs, so the devices never wait."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        start_step: int,
        sums: dict[str, float] | None = None,
        evaluation_due: bool = False,
    ):
        self.job = job
        self.folder = folder
        self.writer = MetricWriter(folder.path, start_step or None, evaluation_due)
        self.progress = Progress(job.total_steps, start_step, on_line=folder.log)
        self.sums = sums or dict.fromkeys(("loss", "correct", "examples"), 0.0)
        """Over the steps of this epoch so far; loss weighted by examples."""
        self.seconds = {"input_wait": 0.0, "on_device": 0.0}
        self.seconds_to_first_step: float | None = None
        self._pending: tuple[int, float, dict[str, jax.Array], list[Any]] | None = None
        self._last_result: float | None = None
        self._steady_images = self._steady_seconds = 0.0
        self._skipped_in_a_row = 0
        self.agreed_stop: signal.Signals | None = None
        """The signal that a process of several has got, as all know it since the same step."""

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        before = time.perf_counter()
        yield
        self.seconds["input_wait"] += time.perf_counter() - before

    @property
    def images_per_second(self) -> float | None:
        """Over all steps but the first, evaluations and checkpoints left out; None before that."""
        return self._steady_images / self._steady_seconds if self._steady_seconds else None

    def call(
        self, done: int, dispatched: float, metrics: dict[str, jax.Array], plans: list[Any]
    ) -> None:
        """Note that steps were dispatched at that time as one call, and report the call before.

        Args:
          done: steps when all of these are done.
          metrics: each [], or [steps] where there are several.

        Raises:
          NotFiniteError: a loss or gradient of the call before is not finite, and the config asks
            for no more than to say so.
        """
        before, self._pending = self._pending, (done, dispatched, metrics, plans)
        if before:
            self._report_call(*before)

    def left_out(self, done: int) -> None:
        """Report the last call, and note that this one is passed over."""
        self.flush()
        self.say(f"{self._where(done)}  left out: its loss was not finite")
        self._end_epoch(done)

    def flush(self) -> None:
        """Report the last call; what follows is not part of the steps' time."""
        pending, self._pending = self._pending, None  # first: what is said may find nobody
        if pending:
            self._report_call(*pending)
        self._last_result = None

    def evaluation(self, split: str, done: int, results: dict[str, Evaluation]) -> None:
        """Write and say a split's results: "" those of the weights, "_ema" those of their mean."""
        for result in results.values():
            if not math.isfinite(result.loss):
                raise NotFiniteError(
                    f"the loss on {split} is {result.loss} after step {done}: the weights have "
                    "diverged, and are not saved; try a smaller learning rate",
                    done,
                )
        row: dict[str, Any] = self._row(done, split)
        for suffix, result in results.items():
            row |= {f"loss{suffix}": result.loss, f"accuracy{suffix}": result.accuracy}
            row[f"top5_accuracy{suffix}"] = result.top5_accuracy
            row[f"calibration_error{suffix}"] = result.calibration_error
        self.writer.write(row)
        text = f"loss {results[''].loss:.4f}  accuracy {results[''].accuracy:.2%}"
        if "_ema" in results:
            mean = results["_ema"]
            text += f"  averaged weights {mean.loss:.4f}  {mean.accuracy:.2%}"
        for name in ("mirror", "shifts"):
            if f"_{name}" in results:
                text += f"  with {name} {results[f'_{name}'].accuracy:.2%}"
        self.say(f"{self._where(done)}  {split:<5}  {text}")
        for result in results.values():
            if result.only_prediction is not None:
                name = self.job.class_names[result.only_prediction]
                self.say(
                    f"WARNING: every prediction on {split} is the class {name!r}. The model has "
                    "learnt nothing yet: if this stays, look at the learning rate and the labels"
                )
                break

    def say(self, line: str) -> None:
        """A line on the screen and in log.txt."""
        self.progress.line(line)

    def close(self) -> None:
        """End the progress display and the metrics files."""
        self.progress.close()
        self.writer.close()

    def _report_call(
        self, done: int, dispatched: float, metrics: dict[str, jax.Array], plans: list[Any]
    ) -> None:
        fetched = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        if number := int(fetched.pop(STOP, np.zeros(1)).max()):
            self.agreed_stop = signal.Signals(number)
        self._count_time(now, dispatched, float(fetched["examples"].sum()))
        for i, plan in enumerate(plans):
            values = {name: float(value[i]) for name, value in fetched.items()}
            self._report_step(done - len(plans) + i + 1, values, plan)

    def _report_step(self, done: int, values: dict[str, float], plan: Any) -> None:
        if math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]):
            self._skipped_in_a_row = 0
            accuracy = self._write_values(done, values)
            shown = values["loss"], accuracy, values["learning_rate"], self.images_per_second
            try:
                self.progress.update(done, *shown)
            finally:  # where nobody reads what is printed, the epoch's row is written all the same
                self._end_epoch(done)
        else:
            self._not_finite(done, values, plan)
            self._end_epoch(done)

    def _write_values(self, done: int, values: dict[str, float]) -> float:
        """Count a step, and write its row where one is due; returns its accuracy."""
        self.sums["loss"] += values["loss"] * values["examples"]
        self.sums["correct"] += values["correct"]
        self.sums["examples"] += values["examples"]
        accuracy = values["correct"] / max(values["examples"], 1)
        if done % self.job.config.log_every_steps == 0 or done == self.job.total_steps:
            row = self._row(done, "train")
            row |= {"loss": values["loss"], "accuracy": accuracy}
            row |= {name: values[name] for name in ("learning_rate", "gradient_norm")}
            if self.images_per_second:
                row["images_per_second"] = self.images_per_second
            row |= {f"seconds_{name}": value for name, value in self.seconds.items()}
            self.writer.write(row)
        return accuracy

    def _not_finite(self, done: int, values: dict[str, float], plan: Any) -> None:
        """Say what was in the batch of a step; raise unless the step itself has left it out."""
        what = (
            f"the loss is {values['loss']} at step {done} (learning rate "
            f"{values['learning_rate']:.3g}, gradient norm {values['gradient_norm']:.3g})"
        )
        names = self._names(done, plan)
        self.folder.log(f"{what}; in the batch: {', '.join(names)}")
        few = ", ".join(names[:4])
        if len(names) > 4:
            few += f" and {len(names) - 4} more, all in log.txt"
        self._skipped_in_a_row += 1
        if self.job.config.on_nan == "skip" and self._skipped_in_a_row <= SKIPS_IN_A_ROW:
            self.say(f"WARNING: {what}; its update is skipped; in the batch: {few}")
            return
        raise NotFiniteError(
            f"{what}: --config.on_nan=skip leaves out such batches, rollback also goes back to the "
            "newest checkpoint; in a --workdir of its own try a smaller learning rate, a longer "
            f"warm-up or --config.optim.clip_norm=1. In the batch: {few}",
            done,
        )

    def _names(self, done: int, plan: Any) -> list[str]:
        """The examples of a batch, by file where they are files."""
        source = self.job.sources["train"]
        if share()[1] > 1:  # the plan is but this process's share
            order = self.job.train_feed.order
            plan = dataclasses.replace(order, share=(0, 1)).slots(done - 1)
        indices = plan["index"][plan["mask"].astype(bool)].tolist()
        return [source.name(index) for index in indices]

    def _end_epoch(self, done: int) -> None:
        if done % self.job.steps_per_epoch == 0 or done == self.job.total_steps:
            self._report_epoch(done)

    def _report_epoch(self, done: int) -> None:
        examples = max(self.sums["examples"], 1)
        means = {
            "loss": self.sums["loss"] / examples,
            "accuracy": self.sums["correct"] / examples,
        }
        self.writer.write(self._row(done, "train-epoch") | means)
        # A training that ends inside an epoch may be made longer: its sums are saved as they are.
        if done % self.job.steps_per_epoch == 0:
            self.sums = dict.fromkeys(self.sums, 0.0)
        # On the screen beside each evaluation only: a long run has many epochs.
        if self.job.is_due(done, self.job.config.eval_every_epochs):
            loss, accuracy = means["loss"], means["accuracy"]
            self.say(f"{self._where(done)}  train  loss {loss:.4f}  accuracy {accuracy:.2%}")

    def _count_time(self, now: float, dispatched: float, examples: float) -> None:
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = now - self.job.began
        else:  # the first step's time is the compiler's
            self.seconds["on_device"] += now - max(dispatched, self._last_result or 0.0)
        if self._last_result is not None:
            self._steady_images += examples
            self._steady_seconds += now - self._last_result
        self._last_result = now

    def _row(self, done: int, split: str) -> dict[str, Any]:
        return {"step": done, "epoch": done / self.job.steps_per_epoch, "split": split}

    def _where(self, done: int) -> str:
        return f"epoch {done / self.job.steps_per_epoch:6.2f}  step {done:6d}"
