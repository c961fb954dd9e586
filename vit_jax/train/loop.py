"""The training loop."""

import contextlib
import dataclasses
import json
import platform
import signal
import time
from importlib.metadata import version
from typing import Any, Literal

import vit_jax
from vit_jax.config import RESUMABLE, Config, ConfigError, differences, from_json, to_json
from vit_jax.models import forward_flops
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError, RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.sharding import overlooked_gpu
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.report import Report
from vit_jax.train.setup import Job, input_shape
from vit_jax.train.state import TrainState
from vit_jax.train.stops import StopRequest

Resume = Literal["auto", "must", "never"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    summary: dict[str, Any]
    """What summary.json holds."""
    stopped_by: signal.Signals | None = None
    """The signal that ended it early; None: it is complete."""


def train(job: Job, folder: RunFolder, resume: Resume = "auto") -> Outcome:
    """Train what `set_up` prepared and leave everything about it in the folder.

    Args:
      resume: "auto" goes on from the newest checkpoint in the folder, if there is one; "must"
        raises where there is none; "never" raises where there is one.

    Raises:
      ConfigError, RunError: before the first step, the folder does not allow what is asked for.
      TrainingError: the loss is not a number any more.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder.checkpoints, job.config.keep_checkpoints)
        stack.callback(checkpoints.close)
        state, notes = _start(job, folder, checkpoints, resume)
        start = int(state.step)
        if finished := _finished(job, folder, start):
            return finished
        folder.write_text("config.json", to_json(job.config))
        report = Report(job, folder, start, notes.get("sums"))
        stack.callback(report.close)
        _introduce(job, folder, report, start)
        stop = stack.enter_context(StopRequest())

        for step in range(start, job.total_steps):
            with report.waiting_for_input():
                plan = job.train_feed.plan(step)
            dispatched = time.perf_counter()
            state, metrics = job.train_step(state, job.train_feed.resident, plan)
            report.step(step + 1, dispatched, metrics)
            stopping = stop.signal  # read once: a signal may arrive at any moment
            _between_steps(job, report, checkpoints, state, step + 1, stopping)
            if stopping:
                break

        checkpoints.wait()
        done = int(state.step)
        results = {}
        if done == job.total_steps and job.test_feed:
            results = _evaluate(job, state, job.test_feed)
            report.evaluation("test", done, results)
        status = "complete" if done == job.total_steps else "stopped"
        summary = _summarise(job, folder, report, status, done, results)
        summary["seconds_total"] = time.perf_counter() - job.began
        folder.write_json("summary.json", summary)
        if status == "complete" and job.eval_feed and not results:
            results = _evaluate(job, state, job.eval_feed)  # for the confusion matrix
        _draw(job, folder, results)
        if status == "complete":
            _say_farewell(folder, report, summary, checkpoints.best_step())
        return Outcome(summary, stop.signal if status == "stopped" else None)


def _finished(job: Job, folder: RunFolder, start: int) -> Outcome | None:
    """The outcome of a run that is complete already; None where there is something left to do."""
    summary = folder.path / "summary.json"
    if start > job.total_steps:
        raise RunError(
            f"{folder.path} holds a run at step {start}, beyond the {job.total_steps} steps asked "
            "for: ask for more, or choose another --workdir"
        )
    if start < job.total_steps or not summary.exists():
        return None
    found = json.loads(summary.read_text())
    if found["status"] != "complete" or found["steps"] != start:
        return None
    name = "test" if found["test_accuracy"] is not None else "eval"
    accuracy = found[f"{name}_accuracy"]
    shown = "" if accuracy is None else f", {name} accuracy {accuracy:.2%}"
    print(f"{folder.path} is complete: {start} steps{shown}")
    return Outcome(found)


def _between_steps(
    job: Job,
    report: Report,
    checkpoints: Checkpoints,
    state: TrainState,
    done: int,
    stopping: signal.Signals | None,
) -> None:
    """Evaluate and save where it is due; a stopping run saves too."""
    due = job.is_due(done, job.config.checkpoint_every_epochs)
    saves = stopping or due
    # Every regular checkpoint gets a score, or the best of them could not be told.
    evaluates = due or job.is_due(done, job.config.eval_every_epochs)
    if not (saves or (evaluates and job.eval_feed)):
        return
    report.flush()
    score = None
    if evaluates and job.eval_feed:
        results = _evaluate(job, state, job.eval_feed)
        report.evaluation("eval", done, results)
        score = _chosen(results).accuracy
    if saves:
        notes = {"sums": report.sums, "class_names": job.class_names, "data": job.fingerprints}
        checkpoints.save(done, state, notes, score)


def _start(
    job: Job, folder: RunFolder, checkpoints: Checkpoints, resume: Resume
) -> tuple[TrainState, dict[str, Any]]:
    """The initial state, or that of the newest checkpoint and the notes saved with it."""
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
                f"--resume must: {folder.path} holds no checkpoint; --resume auto starts"
            )
        return job.initial_state(), {}
    if resume == "never":
        raise RunError(
            f"--resume never: {folder.path} holds a run at step {newest}; go on with --resume "
            "auto, or choose another --workdir"
        )
    if stored.exists():
        _check_same_run(from_json(stored.read_text()), job.config, folder)
    state, notes = checkpoints.restore(newest, job.state_shapes, job.sharding)
    if notes["data"] != job.fingerprints:
        raise RunError(
            f"{folder.path} was trained on other data: its images or labels have changed"
        )
    return state, notes


def _check_same_run(old: Config, new: Config, folder: RunFolder) -> None:
    changed = {k: v for k, v in differences(old, new).items() if k not in RESUMABLE}
    if changed:
        lines = [
            f"  {name}: {before!r} there, {after!r} now"
            for name, (before, after) in changed.items()
        ]
        raise ConfigError(
            f"{folder.path} holds a run with another config; go on with that one, or choose "
            "another --workdir:\n" + "\n".join(lines)
        )


def _evaluate(job: Job, state: TrainState, feed: Any) -> dict[str, Evaluation]:
    """Results of the trained weights, under "", and of their moving average, under "_ema"."""
    results = {"": evaluate(job.eval_step, state.params, feed)}
    if state.ema is not None:
        results["_ema"] = evaluate(job.eval_step, state.ema, feed)
    return results


def _chosen(results: dict[str, Evaluation]) -> Evaluation:
    """The moving average's results where there is one: those are the weights to use."""
    return results.get("_ema", results[""])


def _introduce(job: Job, folder: RunFolder, report: Report, start: int) -> None:
    config, model = job.config, job.config.model
    devices = f"{len(job.devices)} {job.devices[0].device_kind}"
    report.say(f"Run folder: {folder.path}")
    report.say(
        f"ViT width {model.width}, depth {model.depth}, heads {model.num_heads}, patch "
        f"{model.patch_size}: {job.parameters:,} parameters, {model.dtype}, on {devices}"
    )
    report.say(
        f"{config.data.name}: {job.train_feed.num_examples:,} images to train on, "
        f"{len(job.class_names)} classes; {job.total_steps:,} steps of {config.batch_size} images, "
        f"{job.epochs:.3g} epochs"
    )
    if config.pretrained and not start:
        report.say(f"Starting from the weights in {config.pretrained}")
        for change in job.changes:
            report.say(f"  {change}")
    if config.device == "auto" and (advice := overlooked_gpu(job.devices)):
        report.say(f"WARNING: {advice}")
    if config.optim.warmup_epochs > job.epochs:
        report.say(
            f"NOTE: optim.warmup_epochs={config.optim.warmup_epochs:g} is longer than this "
            "training: the learning rate rises to its end without reaching the peak"
        )
    if start:
        report.say(f"Going on from the checkpoint at step {start}")


def _summarise(
    job: Job,
    folder: RunFolder,
    report: Report,
    status: str,
    done: int,
    test: dict[str, Evaluation],
) -> dict[str, Any]:
    model = job.config.model
    height, width, channels = input_shape(model)
    evaluations = read_rows(folder.path, keep=lambda row: row["split"] == "eval")
    last = evaluations[-1] if evaluations else {}
    result = _chosen(test) if test else None
    return {
        "status": status,
        "steps": done,
        "epochs": done / job.steps_per_epoch,
        "parameters": job.parameters,
        "train_flops_per_image": 3 * forward_flops(model, (height, width), channels),
        "train_images_per_second": report.images_per_second,
        "seconds_to_first_step": report.seconds_to_first_step,
        **{f"seconds_{name}": value for name, value in report.seconds.items()},
        "eval_accuracy": last.get("accuracy_ema", last.get("accuracy")),
        "test_accuracy": result and result.accuracy,
        "test_loss": result and result.loss,
        "test_examples": result and result.examples,
        "weights": "ema" if job.config.optim.ema_decay is not None else "trained",
        "class_names": list(job.class_names),
        "versions": {
            "vit_jax": vit_jax.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax")},
            "orbax-checkpoint": version("orbax-checkpoint"),
        },
        "device_kind": job.devices[0].device_kind,
        "device_count": len(job.devices),
    }


def _draw(job: Job, folder: RunFolder, test: dict[str, Evaluation]) -> None:
    from vit_jax.pictures.confusion import draw_confusion
    from vit_jax.pictures.curves import draw_curves

    folder.pictures.mkdir(exist_ok=True)
    draw_curves(read_rows(folder.path), folder.pictures / "curves.png")
    if test:
        confusion = _chosen(test).confusion
        draw_confusion(confusion, job.class_names, folder.pictures / "confusion_matrix.png")


def _say_farewell(
    folder: RunFolder, report: Report, summary: dict[str, Any], best_step: int | None
) -> None:
    speed = summary["train_images_per_second"]
    report.say(
        f"Done in {summary['seconds_total']:.1f} s"
        + (f": {speed:,.0f} img/s in training" if speed else "")
        + f", {summary['seconds_input_wait']:.2f} s waiting for input"
    )
    if summary["test_examples"]:
        report.say(
            f"Test accuracy: {summary['test_accuracy']:.2%} of {summary['test_examples']:,} images"
        )
    if best_step is not None:
        report.say(f"Best held-out accuracy among the checkpoints: step {best_step}")
    report.say(f"Pictures: {folder.pictures}")
    report.say(f"Evaluate again: vit-jax evaluate {folder.path}")
