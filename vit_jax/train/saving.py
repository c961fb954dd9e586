"""What a run saves of its state, and what it says of that."""

import json
from typing import Any

from vit_jax.config import to_json
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.train.report import NotFiniteError, Report
from vit_jax.train.setup import Job
from vit_jax.train.state import TrainState, is_finite
from vit_jax.train.summary import versions


def what_is_saved(folder: RunFolder, checkpoints: Checkpoints, change: str = "") -> str:
    """A sentence on what the run can go on from; `change` is added to the command."""
    steps = checkpoints.steps()
    if not steps:
        return "No checkpoint was written yet"
    return (
        f"All up to step {steps[-1]} is saved: the same command with --workdir={folder.path}"
        f"{change} goes on from there"
    )


class Saver:
    """Writes checkpoints of states that can be gone on from, each with notes on the run."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        checkpoints: Checkpoints,
        report: Report,
        left_out: set[int],
    ):
        self.job = job
        self.folder = folder
        self.checkpoints = checkpoints
        self.report = report
        self.left_out = left_out

    def save(self, state: TrainState, done: int, score: float | None, evaluation_due: bool) -> None:
        """Save the state after `done` steps.

        Args:
          score: accuracy on the held-out split; None: not known.
          evaluation_due: it was cut short, and whoever goes on is to make up for it.

        Raises:
          NotFiniteError: nothing can go on from this state, so it is not saved.
          CheckpointError: see `Checkpoints.save`.
        """
        if not bool(is_finite(state)):
            raise NotFiniteError(
                f"the weights or the optimiser's moments are not finite after step {done}, though "
                "its loss and gradient were: the update itself is too large. They are not saved; "
                "try a smaller learning rate or weight decay",
                done,
            )
        self.checkpoints.save(done, state, self._notes(evaluation_due), score)

    def save_what_there_is(self, state: TrainState, evaluation_due: bool) -> None:
        """Save a state that the run is cut off at, if it is worth it and not saved yet; wait."""
        done = int(state.step)
        if done not in (0, self.checkpoints.latest_step()) and bool(is_finite(state)):
            self.checkpoints.save(done, state, self._notes(evaluation_due), None)
        self.checkpoints.wait()

    def _notes(self, evaluation_due: bool) -> dict[str, Any]:
        """What a checkpoint holds besides the state."""
        return {
            "config": json.loads(to_json(self.job.config)),
            "class_names": self.job.class_names,
            "data": self.job.fingerprints,
            "versions": versions(),
            "sums": self.report.sums,
            "left_out": sorted(self.left_out),
            "evaluation_due": evaluation_due,
        }
