"""The training loop."""

import contextlib
import dataclasses
import signal
import time
from typing import Any

import jax
import numpy as np

from vit_jax.config import to_json
from vit_jax.data.source import DataError
from vit_jax.data.streaming import WorkerError
from vit_jax.processes import end_if_alone, share
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.lock import locked
from vit_jax.runs.quiet import discard_output
from vit_jax.train.evaluate import Evaluation, evaluate_state, evaluate_test, usable_weights
from vit_jax.train.farewell import show_farewell
from vit_jax.train.gallery import Gallery
from vit_jax.train.memory import explain_out_of_memory
from vit_jax.train.programs import STOP, side_by_side
from vit_jax.train.report import NotFiniteError, Report, TrainingError
from vit_jax.train.resume import (
    Resume,
    check_space,
    complete_summary,
    open_state,
    restored_state,
)
from vit_jax.train.saving import Saver, what_is_saved
from vit_jax.train.setup import Job
from vit_jax.train.state import TrainState
from vit_jax.train.stops import StopRequest
from vit_jax.train.summary import chosen, introduce, list_bad_images, summarise

ROLLBACKS = 3
"""After so many to the same step a run ends: what goes wrong so often is not a batch."""


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
      CheckpointError: no checkpoint can be used, or the newest could not be written.
      TrainingError: the training cannot go on; the message says what is saved.
    """
    with contextlib.ExitStack() as stack:
        for feed in job.feeds:
            stack.callback(feed.close)
        before = stack.enter_context(locked(folder.path))
        checkpoints = Checkpoints(folder.checkpoints, job.config.keep_checkpoints)
        stack.callback(checkpoints.close)

        def say(line: str) -> None:
            print(line)
            folder.log(line)

        if before:
            say(f"NOTE: the run before was cut off without an end ({before})")
        stop = stack.enter_context(StopRequest(job.config.stop_signal))
        state, notes = open_state(job, folder, checkpoints, resume, say)
        if summary := complete_summary(job, folder, int(state.step)):
            _say_complete(folder, summary)
            return Outcome(summary)
        check_space(job, folder, checkpoints)
        folder.write_text("config.json", to_json(job.config))
        folder.write_json("data.json", job.data_facts)
        left_out = set(notes.get("left_out", ()))
        began = [-1] * ROLLBACKS  # the steps that the last rollbacks went back to
        while True:
            try:
                return _Run(job, folder, checkpoints, stop, state, notes, left_out).train()
            except NotFiniteError as error:
                checkpoints.wait()
                if job.config.on_nan != "rollback" or began[0] == (checkpoints.latest_step() or 0):
                    saved = what_is_saved(folder, checkpoints)
                    raise NotFiniteError(f"{error}. {saved}", error.step) from error
                # The error itself goes with this block: it holds the state that is no good.
                went_wrong, step = str(error), error.step
            del state
            state, notes = restored_state(job, folder, checkpoints, say)
            began = [*began[1:], int(state.step)]
            left_out.add(step)
            say(f"WARNING: {went_wrong}")
            say(f"WARNING: back to step {int(state.step)}; step {step} is left out")


class _Run:
    """One way from a state to the end; what goes wrong on it leaves what is saved as it is."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        checkpoints: Checkpoints,
        stop: StopRequest,
        state: TrainState,
        notes: dict[str, Any],
        left_out: set[int],
    ):
        self.job = job
        self.folder = folder
        self.checkpoints = checkpoints
        self.stop = stop
        self.state = state
        self.start = int(state.step)
        self.left_out = left_out
        """Steps, counted from 1, whose batches the weights are not to see."""
        self.evaluation_due = bool(notes.get("evaluation_due"))
        """A signal has cut short the evaluation of the step that this goes on from."""
        self.stopped_by: signal.Signals | None = None
        """The signal that the run has heeded."""
        self.several = share()[1] > 1
        """Whether this is one of several processes."""
        self.report = Report(job, folder, self.start, notes.get("sums"), self.evaluation_due)
        self.gallery = Gallery(job, folder, self.report, self.start)
        self.saver = Saver(job, folder, checkpoints, self.report, left_out)

    def train(self) -> Outcome:
        """All steps, and what comes after the last."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.report.close)
            stack.push(self.gallery.close)
            try:
                introduce(self.job, self.folder, self.report, self.start)
                held_out = self._steps()
                self.checkpoints.wait()
                return self._end(held_out)
            except jax.errors.JaxRuntimeError as error:
                if explanation := explain_out_of_memory(error, self.job):
                    raise TrainingError(f"{explanation} {self._saved_with_less()}") from error
                end_if_alone(error)
                raise
            except (DataError, WorkerError) as error:
                raise self._saved_despite(error) from error
            except BrokenPipeError:
                return self._unheard()
            except OSError as error:
                raise TrainingError(
                    f"{error}. {what_is_saved(self.folder, self.checkpoints)}"
                ) from error

    def _saved_with_less(self) -> str:
        """What a run that met the end of memory can go on from; another batch it cannot take."""
        saved = what_is_saved(self.folder, self.checkpoints, " and accumulate_steps or remat")
        if self.checkpoints.steps():
            saved += ". Another batch_size is another training, for a --workdir of its own"
        return saved

    def _steps(self) -> dict[str, Evaluation]:
        """Train to the end or to a signal; returns the last step's evaluation, if there was one."""
        done, held_out = self.start, {}
        if self.evaluation_due:
            held_out = self._make_up_for_evaluation()
        while done < self.job.total_steps and not self.stopped_by:
            done += self._call(done)
            held_out = self._between_steps(done)
        return held_out

    def _call(self, step: int) -> int:
        """Do the next step, or the next few as one call; returns how many."""
        job, report = self.job, self.report
        if step + 1 in self.left_out:
            self.state = dataclasses.replace(self.state, step=self.state.step + 1)
            report.left_out(step + 1)
            return 1
        if job.early and step == job.early.until:
            report.flush()  # what follows compiles, which is not the steps' time
        number = self._steps_at_once(step)
        with report.waiting_for_input():
            plans = [job.train_feed.plan(step + i) for i in range(number)]
        if self.several:
            # All processes have to stop after the same step, so they tell each other.
            for plan in plans:
                plan[STOP] = np.full(len(plan["mask"]), self.stop.signal or 0, np.int32)
        program = job.train_program(step, number)
        plan = plans[0] if number == 1 else side_by_side(plans)
        dispatched = time.perf_counter()
        self.state, metrics = program(self.state, job.train_feed.resident, plan)
        report.call(step + number, dispatched, metrics, plans)
        if step == self.start:
            self.gallery.first_batch(plans[0], step)
        return number

    def _steps_at_once(self, step: int) -> int:
        """How many steps the next call does: those that belong together, unless one is left out."""
        number = self.job.steps_at_once(step)
        return 1 if any(step < left <= step + number for left in self.left_out) else number

    def _between_steps(self, done: int) -> dict[str, Evaluation]:
        """Evaluate and save where it is due; a stopping run saves at once.

        Returns:
          what the evaluation gave, see `evaluate_state`; empty where there was none.
        """
        self.checkpoints.check()
        stopping = self._signal()  # read once: a signal may arrive at any moment
        evaluates = self._evaluates(done)
        if not (stopping or self.job.interrupts(done)):
            return {}
        self.report.flush()
        results = self._evaluated(done) if evaluates and not stopping else {}
        cut_short = evaluates and not results
        self.stopped_by = self._signal() if stopping or cut_short else None
        if self.stopped_by or self.job.is_due(done, self.job.config.checkpoint_every_epochs):
            score = chosen(results).accuracy if results else None
            self.saver.save(self.state, done, score, evaluation_due=cut_short)
        return results

    def _evaluates(self, done: int) -> bool:
        """Whether to evaluate after `done` steps.

        Every regular checkpoint gets a score, or the best of them could not be told.
        """
        return self.job.eval_feed is not None and self.job.interrupts(done)

    def _evaluated(self, done: int) -> dict[str, Evaluation]:
        """Evaluate on the held-out split and tell; returns nothing where a signal cut it short."""
        results = evaluate_state(self.job, self.state, self.job.eval_feed, self._is_asked_to_stop)
        if results:
            self.report.evaluation("eval", done, results)
            accuracy = chosen(results).accuracy
            self.gallery.after_evaluation(usable_weights(self.state), done, accuracy)
        return results

    def _make_up_for_evaluation(self) -> dict[str, Evaluation]:
        """The evaluation that the last run was stopped in; the checkpoint gets its score."""
        try:
            results = self._evaluated(self.start)
        except NotFiniteError as error:
            raise TrainingError(
                f"{error}. The checkpoint of step {self.start} was saved before it could be "
                f"evaluated: remove {self.folder.checkpoints / str(self.start)} to go on from the "
                "one before"
            ) from error
        if results:
            score = chosen(results).accuracy
            self.checkpoints.amend(self.start, {"evaluation_due": False}, score)
        else:
            self.stopped_by = self._signal()
        return results

    def _signal(self) -> signal.Signals | None:
        """The signal to heed; of several processes the one that all know of."""
        return self.report.agreed_stop if self.several else self.stop.signal

    def _is_asked_to_stop(self) -> bool:
        # A process that left an evaluation alone would keep the others waiting in it.
        return not self.several and self.stop.signal is not None

    def _end(self, held_out: dict[str, Evaluation]) -> Outcome:
        """Test, draw, and write what the folder says about the whole."""
        job, folder, report = self.job, self.folder, self.report
        done, results = int(self.state.step), {}
        if not self.stopped_by and job.test_feed:
            results = evaluate_test(job, self.state, job.test_feed, self._is_asked_to_stop)
            if results:
                report.evaluation("test", done, results)
            else:
                self.stopped_by = self._signal()
        complete = not self.stopped_by
        bad_images = list_bad_images(job, folder, report)
        shown = results or held_out  # those of the last step, where every run evaluates
        self.gallery.finish(usable_weights(self.state), chosen(shown) if shown else None, complete)
        status = "complete" if complete else "stopped"
        summary = summarise(job, folder, report, status, done, results, bad_images)
        summary["seconds_pictures"] = self.gallery.seconds
        summary["seconds_total"] = time.perf_counter() - job.began
        folder.write_json("summary.json", summary)
        self.gallery.write_report()
        if complete:
            on_terminal = report.progress.on_terminal
            report.progress.close()
            say = folder.log if on_terminal else report.say
            show_farewell(folder.path, summary, self.checkpoints.best_step(), say, on_terminal)
        return Outcome(summary, self.stopped_by)

    def _unheard(self) -> Outcome:
        """Save, where nobody reads any more what is printed: `tee` may have got the same Ctrl-C."""
        discard_output()
        self._save_now()
        self.stopped_by = self._signal()
        if self.stopped_by is None:
            raise BrokenPipeError
        return self._end({})

    def _saved_despite(self, error: Exception) -> TrainingError:
        """Save what was learnt before the data failed; returns its error with what to do."""
        self._save_now()
        list_bad_images(self.job, self.folder, self.report)
        skip = " --config.data.on_bad_image=skip" if isinstance(error, DataError) else ""
        return TrainingError(f"{error}. {what_is_saved(self.folder, self.checkpoints, skip)}")

    def _save_now(self) -> None:
        """A checkpoint of all steps that are done, where there is none yet."""
        self.report.flush()
        # What one of several processes meets the others do not know of, and all save or none.
        if not self.several:
            due = self._evaluates(int(self.state.step))
            self.saver.save_what_there_is(self.state, evaluation_due=due)


def _say_complete(folder: RunFolder, summary: dict[str, Any]) -> None:
    name = "test" if summary["test_accuracy"] is not None else "eval"
    accuracy = summary[f"{name}_accuracy"]
    shown = "" if accuracy is None else f", {name} accuracy {accuracy:.2%}"
    print(f"{folder.path} is complete: {summary['steps']} steps{shown}")
