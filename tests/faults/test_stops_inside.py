"""A signal while a run evaluates: it does not wait for the end, and nothing differs afterwards."""

import dataclasses
import os
import signal

import jax
import pytest
from faults import processes

from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.report import TrainingError
from vit_jax.train.setup import set_up

STEPS = 12


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])


@pytest.fixture
def job():
    """Two batches to hold out, twelve to test on; every evaluation has its checkpoint."""
    base = processes.small_config(steps=STEPS, checkpoint_every_epochs=0.2, eval_every_epochs=0.2)
    return set_up(base)


def interrupted(job, at):
    """The same job, which gets a real SIGTERM while it evaluates its batch number `at`."""
    seen = []

    def step(weights, resident, plan):
        seen.append(plan)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return job.eval_step(weights, resident, plan)

    return dataclasses.replace(job, eval_step=step), seen


def rows(folder):
    """All rows but for times and rates."""
    return [
        {key: value for key, value in row.items() if "second" not in key}
        for row in read_rows(folder)
    ]


def scores(folder):
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        return checkpoints.steps(), checkpoints.best_step()
    finally:
        checkpoints.close()


@pytest.mark.fault(
    "SIGTERM while the run evaluates, inside training and in its test at the end",
    "no further batch is evaluated, the step is saved, the run ends; the next start evaluates it",
)
# Two sets of weights, and two batches to hold out: four calls an evaluation, three of them before
# the test. Call 6 is in the second evaluation, 15 in the test.
@pytest.mark.parametrize(("call", "step"), [(6, 8), (15, 12)])
def test_r2_r18_a_signal_does_not_wait_for_an_evaluation(job, tmp_path, call, step):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(job, RunFolder(whole))
    cut, seen = interrupted(job, call)
    outcome = train(cut, RunFolder(folder))
    assert outcome.stopped_by == signal.SIGTERM
    assert (outcome.summary["status"], outcome.summary["steps"]) == ("stopped", step)
    # The batch under way is finished, for both sets of weights.
    assert len(seen) == call + call % 2
    assert scores(folder)[0][-1] == step
    after = train(job, RunFolder(folder))
    assert (after.stopped_by, after.summary["status"]) == (None, "complete")
    assert sorted(map(str, rows(folder))) == sorted(map(str, rows(whole)))
    assert scores(folder) == scores(whole)
    assert processes.fingerprint(folder) == processes.fingerprint(whole)


@pytest.mark.fault(
    "a run ends between the row of an evaluation that it made up for and the note of that",
    "the next start makes it again, and the row stands once",
)
def test_r18_a_made_up_evaluation_has_one_row(job, tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(job, RunFolder(whole))
    train(interrupted(job, 6)[0], RunFolder(folder))

    def fail(self, step, changes, score):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "amend", fail)
        with pytest.raises(TrainingError, match=r"the disk is gone\. All up to step 8 is saved"):
            train(job, RunFolder(folder))
    train(job, RunFolder(folder))
    assert sorted(map(str, rows(folder))) == sorted(map(str, rows(whole)))
    assert scores(folder) == scores(whole)


@pytest.mark.fault(
    "SIGTERM in the evaluation that makes up for the one that a SIGTERM had cut short",
    "the run ends again without a step, and the third start ends like an uninterrupted run",
)
def test_r2_r18_stopped_again_where_it_was_stopped(job, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(job, RunFolder(whole))
    for call in (6, 1):
        cut, _ = interrupted(job, call)
        outcome = train(cut, RunFolder(folder))
        assert (outcome.stopped_by, outcome.summary["steps"]) == (signal.SIGTERM, 8)
    train(job, RunFolder(folder))
    assert sorted(map(str, rows(folder))) == sorted(map(str, rows(whole)))
    assert scores(folder) == scores(whole)
