"""The training loop."""

import contextlib
import dataclasses
import json
import signal
import time
from typing import Any, Literal

from vit_jax.config import RESUMABLE, Config, ConfigError, differences, from_json, to_json
from vit_jax.data.source import DataError
from vit_jax.data.streaming import WorkerError
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunError, RunFolder
from vit_jax.train.evaluate import Evaluation, evaluate
from vit_jax.train.farewell import show_farewell
from vit_jax.train.gallery import Gallery
from vit_jax.train.report import Report, TrainingError
from vit_jax.train.setup import Job
from vit_jax.train.state import TrainState
from vit_jax.train.stops import StopRequest
from vit_jax.train.summary import chosen, introduce, list_bad_images, summarise

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
        for feed in job.feeds:
            stack.callback(feed.close)
        state, notes = _start(job, folder, checkpoints, resume)
        start = int(state.step)
        if finished := _finished(job, folder, start):
            return finished
        folder.write_text("config.json", to_json(job.config))
        folder.write_json("data.json", job.data_facts)
        report = Report(job, folder, start, notes.get("sums"))
        stack.callback(report.close)
        gallery = Gallery(job, folder, report, start)
        stack.push(gallery.close)
        introduce(job, folder, report, start)
        stop = stack.enter_context(StopRequest())

        held_out: dict[str, Evaluation] = {}
        for step in range(start, job.total_steps):
            plan = _next_plan(job, folder, report, checkpoints, state, step)
            dispatched = time.perf_counter()
            state, metrics = job.train_step(state, job.train_feed.resident, plan)
            report.step(step + 1, dispatched, metrics)
            if step == start:
                gallery.first_batch(plan, step)
            stopping = stop.signal  # read once: a signal may arrive at any moment
            held_out = _between_steps(job, folder, report, checkpoints, state, step + 1, stopping)
            if held_out:
                accuracy = chosen(held_out).accuracy
                gallery.after_evaluation(usable_weights(state), step + 1, accuracy)
            if stopping:
                break

        checkpoints.wait()
        done = int(state.step)
        results = {}
        if done == job.total_steps and job.test_feed:
            results = _test(job, state, job.test_feed)
            report.evaluation("test", done, results)
        bad_images = list_bad_images(job, folder, report)
        status = "complete" if done == job.total_steps else "stopped"
        complete = status == "complete"
        shown = results or held_out  # those of the last step, where every run evaluates
        gallery.finish(usable_weights(state), chosen(shown) if shown else None, complete)
        summary = summarise(job, folder, report, status, done, results, bad_images)
        summary["seconds_pictures"] = gallery.seconds
        summary["seconds_total"] = time.perf_counter() - job.began
        folder.write_json("summary.json", summary)
        gallery.write_report()
        if complete:
            on_terminal = report.progress.on_terminal
            report.progress.close()
            say = folder.log if on_terminal else report.say
            show_farewell(folder.path, summary, checkpoints.best_step(), say, on_terminal)
        return Outcome(summary, None if complete else stop.signal)


def _next_plan(
    job: Job,
    folder: RunFolder,
    report: Report,
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
) -> Any:
    """What the feed sends for a step; if it cannot, what has been learnt is saved first."""
    try:
        with report.waiting_for_input():
            return job.train_feed.plan(step)
    except (DataError, WorkerError) as error:
        report.flush()
        raise _saved(job, folder, report, checkpoints, state, step, error) from error


def _saved(
    job: Job,
    folder: RunFolder,
    report: Report,
    checkpoints: Checkpoints,
    state: TrainState,
    done: int,
    error: Exception,
) -> TrainingError:
    """Save what has been learnt; returns the error of the data as one of the run, with a remedy."""
    if done not in (0, checkpoints.latest_step()):
        checkpoints.save(done, state, _notes(job, report), None)
        checkpoints.wait()
    list_bad_images(job, folder, report)
    skip = " with --config.data.on_bad_image=skip" if isinstance(error, DataError) else ""
    return TrainingError(
        f"{error}. The {done} steps before are saved: the same command{skip} goes on from there"
    )


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
    folder: RunFolder,
    report: Report,
    checkpoints: Checkpoints,
    state: TrainState,
    done: int,
    stopping: signal.Signals | None,
) -> dict[str, Evaluation]:
    """Evaluate and save where it is due; a stopping run saves too.

    Returns:
      what the evaluation gave, see `_evaluate`; empty where there was none.
    """
    due = job.is_due(done, job.config.checkpoint_every_epochs)
    saves = stopping or due
    # Every regular checkpoint gets a score, or the best of them could not be told.
    evaluates = due or job.is_due(done, job.config.eval_every_epochs)
    if not (saves or (evaluates and job.eval_feed)):
        return {}
    report.flush()
    score, results = None, {}
    if evaluates and job.eval_feed:
        try:
            results = _evaluate(job, state, job.eval_feed)
        except DataError as error:
            raise _saved(job, folder, report, checkpoints, state, done, error) from error
        report.evaluation("eval", done, results)
        score = chosen(results).accuracy
    if saves:
        checkpoints.save(done, state, _notes(job, report), score)
    return results


def _notes(job: Job, report: Report) -> dict[str, Any]:
    """What a checkpoint holds besides the state."""
    return {"sums": report.sums, "class_names": job.class_names, "data": job.fingerprints}


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


def usable_weights(state: TrainState) -> Any:
    """The moving average of the weights where there is one, else the weights."""
    return state.params if state.ema is None else state.ema


def _evaluate(job: Job, state: TrainState, feed: Any) -> dict[str, Evaluation]:
    """Results of the trained weights, under "", and of their moving average, under "_ema"."""
    weights = {"": state.params} if state.ema is None else {"": state.params, "_ema": state.ema}
    return evaluate(job.eval_step, weights, feed)


def _test(job: Job, state: TrainState, feed: Any) -> dict[str, Evaluation]:
    """The same, and under the name of the test-time augmentation what it makes of them."""
    results = _evaluate(job, state, feed)
    if job.config.test_time != "none":
        name = f"_{job.config.test_time}"
        results |= evaluate(job.test_time_step, {name: usable_weights(state)}, feed)
    return results
