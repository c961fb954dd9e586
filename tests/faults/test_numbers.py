"""Numbers gone wrong: a batch whose loss is not finite, because of one picture."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import processes

from vit_jax.data.source import DataConfig, DataError
from vit_jax.optim import OptimConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.report import NotFiniteError, TrainingError
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


@pytest.fixture
def overflowing(config, tmp_path):
    """Loss and gradient stay finite, but decay takes the weights beyond what a float can hold."""
    images = np.random.default_rng(0).standard_normal((32, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(32) % 4)
    optim = dataclasses.replace(
        config.optim,
        name="sgd",
        learning_rate=100.0,
        weight_decay=3e38,
        clip_norm=None,
        ema_decay=None,
        warmup_epochs=0.0,
        decay="all",
    )
    return dataclasses.replace(config, optim=optim, checkpoint_every_epochs=0.25)


@pytest.mark.fault(
    "an update takes weights beyond what a float holds, though loss and gradient were finite",
    "the run ends by step and remedy, and that state is never saved",
)
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_r22_weights_that_overflow_are_never_saved(overflowing, tmp_path, on_nan):
    job = set_up(dataclasses.replace(overflowing, on_nan=on_nan))
    with pytest.raises(NotFiniteError, match=r"not finite after step \d+, though its loss"):
        train(job, RunFolder(tmp_path / "run"))
    for step in steps_of(tmp_path / "run"):
        weights = jax.tree.leaves(load_run(tmp_path / "run", step).params)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in weights), step


@pytest.mark.fault(
    "the gradient of a step is not finite, though its loss is",
    "the same as for a loss that is not finite",
)
def test_r22_a_gradient_that_is_not_finite(overflowing, tmp_path, monkeypatch):
    job = set_up(dataclasses.replace(overflowing, optim=OptimConfig(), on_nan="stop"))
    compiled = job.train_step

    def step(state, resident, plan):
        done = int(state.step) + 1
        state, metrics = compiled(state, resident, plan)
        return state, metrics | ({"gradient_norm": jnp.inf} if done == 6 else {})

    with pytest.raises(NotFiniteError, match=r"at step 6 .*gradient norm inf"):
        train(dataclasses.replace(job, train_step=step), RunFolder(tmp_path / "run"))
    assert max(steps_of(tmp_path / "run")) == 5


@pytest.mark.fault(
    "an update overflows, and then the data of the next step cannot be read",
    "the run ends with the data's error, and the state is not saved",
)
def test_r22_weights_that_overflow_are_not_saved_as_the_data_fails(
    overflowing, tmp_path, monkeypatch
):
    job = set_up(dataclasses.replace(overflowing, checkpoint_every_epochs=1.0))
    plan = job.train_feed.plan

    def failing(step):
        if step:
            raise DataError("the disk is gone")
        return plan(step)

    monkeypatch.setattr(job.train_feed, "plan", failing)
    with pytest.raises(TrainingError, match=r"the disk is gone\. No checkpoint was written yet"):
        train(job, RunFolder(tmp_path / "run"))
    assert steps_of(tmp_path / "run") == []
