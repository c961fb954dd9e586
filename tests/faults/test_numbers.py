"""Numbers gone wrong: a batch whose loss is not finite, because of one picture."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from faults import processes

from vit_jax.data.source import DataConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.report import NotFiniteError
from vit_jax.train.setup import set_up
from vit_jax.weights.run_folder import load_run

STEPS = 12


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])


@pytest.fixture
def config(tmp_path):
    """Arrays of 32 float images in batches of 8; products of one of them are infinite."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 8, 8, 1)).astype(np.float32)
    images[BAD] = 3e38  # finite, but no sum of such is
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(32) % 4)
    data = DataConfig(
        name="arrays",
        root=str(tmp_path / "data.npz"),
        train_split="train",
        eval_split=None,
        test_split=None,
        mean=(0.0,),
        std=(1.0,),
    )
    base = processes.small_config(data=data, batch_size=8, steps=STEPS)
    return dataclasses.replace(
        base, augment=type(base.augment)(), checkpoint_every_epochs=0.25, keep_checkpoints=20
    )


BAD = 5


def bad_steps(job):
    """The steps, counted from 1, in whose batch the bad picture is."""
    return [n + 1 for n in range(STEPS) if BAD in job.train_feed.plan(n)["index"]]


def steps_of(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def rows_of(folder):
    return {row["step"]: row["loss"] for row in read_rows(folder) if row["split"] == "train"}


@pytest.mark.fault(
    "a batch whose loss is not finite, with on_nan=stop",
    "the run ends, naming step, learning rate, gradient norm and the files; nothing of it is saved",
)
def test_r22_stop_names_what_was_in_the_batch(config, tmp_path):
    job = set_up(config)
    bad = bad_steps(job)[0]
    pattern = rf"the loss is nan at step {bad} \(learning rate .*, gradient norm nan\)"
    with pytest.raises(NotFiniteError, match=pattern) as error:
        train(job, RunFolder(tmp_path / "run"))
    assert "on_nan=skip" in str(error.value)
    assert "optim.clip_norm" in str(error.value)
    source = job.sources["train"]
    assert f"{source.name(BAD)}" in (tmp_path / "run" / "log.txt").read_text()
    assert max(steps_of(tmp_path / "run"), default=0) < bad
    assert max(rows_of(tmp_path / "run"), default=0) < bad


@pytest.mark.fault(
    "the same with on_nan=skip",
    "the update of that batch is left out, said each time, and the run goes on to a good end",
)
def test_r22_skip_leaves_out_the_update(config, tmp_path):
    job = set_up(dataclasses.replace(config, on_nan="skip"))
    bad = bad_steps(job)
    assert len(bad) == 3
    summary = train(job, RunFolder(tmp_path / "run")).summary
    assert (summary["status"], summary["steps"]) == ("complete", STEPS)
    assert set(range(1, STEPS + 1)) - set(rows_of(tmp_path / "run")) == set(bad)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("its update is skipped") == len(bad)
    before, after = (load_run(tmp_path / "run", step) for step in (bad[0] - 1, bad[0]))
    for one, other in zip(
        jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(np.asarray(load_run(tmp_path / "run").params["head"]["kernel"])).all()


@pytest.mark.fault(
    "every batch is not finite, with on_nan=skip",
    "after ten in a row the run ends: nothing is learnt any more",
)
def test_r22_skipping_has_an_end(config, tmp_path):
    diverging = dataclasses.replace(
        config,
        on_nan="skip",
        steps=40,
        data=dataclasses.replace(config.data, std=(1e-45,)),
    )
    with pytest.raises(NotFiniteError, match="at step 11 "):
        train(set_up(diverging), RunFolder(tmp_path / "run"))


@pytest.mark.fault(
    "the same with on_nan=rollback",
    "the run goes back to the newest checkpoint, leaves out the batch, and says both",
)
def test_r22_rollback_goes_back_and_leaves_out_the_batch(config, tmp_path):
    rolling = dataclasses.replace(config, on_nan="rollback", checkpoint_every_epochs=0.5)
    job = set_up(rolling)
    bad = bad_steps(job)
    summary = train(job, RunFolder(tmp_path / "run")).summary
    assert (summary["status"], summary["steps"]) == ("complete", STEPS)
    log = (tmp_path / "run" / "log.txt").read_text()
    for step in bad:
        back = (step - 1) // 2 * 2
        assert f"WARNING: back to step {back}; step {step} is left out" in log
        assert f"step {step:6d}  left out: its loss was not finite" in log
    assert set(range(1, STEPS + 1)) - set(rows_of(tmp_path / "run")) == set(bad)
    notes = json.loads(
        (tmp_path / "run" / "checkpoints" / str(STEPS) / "proof" / "notes.json").read_text()
    )
    assert notes["notes"]["left_out"] == bad
