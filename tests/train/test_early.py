"""`early`: the first epochs on larger or on fewer patches, with the same weights."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from vit_jax.config import ConfigError, EarlyConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.runs.proof import read_proof
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.setup import set_up


@pytest.fixture
def config(tiny_config, monkeypatch):
    """Three steps an epoch; patches of 4 pixels in the first two epochs, then of 2."""
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])
    model = tiny_config.model.clone(
        patch_size=2, patch_kernel_size=4, positions="sincos2d", pool="gap"
    )
    early = EarlyConfig(epochs=1.3, patch_size=4, patch_dropout=0.5)
    return dataclasses.replace(tiny_config, model=model, early=early, steps=7)


def run(config, folder):
    """The losses of a run by step, and the checksums of its last checkpoint's arrays."""
    train(set_up(config), RunFolder(folder))
    rows = {row["step"]: row["loss"] for row in read_rows(folder) if row["split"] == "train"}
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return rows, read_proof(newest / "proof").arrays


def test_the_first_steps_are_those_of_the_early_model(config):
    job = set_up(config)
    assert job.steps_per_epoch == 3
    assert job.early.until == 4  # 3.9 is rounded
    programs = [job.train_program(done, 1) for done in range(7)]
    assert programs == [job.early.train_step] * 4 + [job.train_step] * 3
    large = set_up(
        dataclasses.replace(
            config,
            model=config.model.clone(patch_size=4, patch_dropout=0.5),
            early=EarlyConfig(),
        )
    )
    assert large.early is None
    state, other = job.initial_state(), large.initial_state()
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    for done in range(4):
        plan = job.train_feed.plan(done)
        state, metrics = job.train_program(done, 1)(state, job.train_feed.resident, plan)
        other, expected = large.train_step(other, large.train_feed.resident, plan)
        assert float(metrics["loss"]) == float(expected["loss"])


def test_calls_of_several_steps_stop_where_the_early_ones_end(config):
    job = set_up(
        dataclasses.replace(
            config, steps_per_call=3, eval_every_epochs=9.0, checkpoint_every_epochs=9.0, steps=9
        )
    )
    assert [job.steps_at_once(done) for done in (0, 3, 6)] == [3, 1, 3]
    assert job.train_program(0, 3) is job.early.train_steps
    assert job.train_program(6, 3) is job.train_steps


def test_a_run_that_goes_on_is_the_same_on_both_sides_of_the_change(config, tmp_path):
    expected, proof = run(config, tmp_path / "whole")
    every = dataclasses.replace(config, checkpoint_every_epochs=1 / 3, keep_checkpoints=9)
    run(every, tmp_path / "part")
    for step in (2, 5):
        part = tmp_path / f"part_{step}"
        shutil.copytree(tmp_path / "part", part)
        for path in (part / "checkpoints").iterdir():
            if int(path.name) > step:
                shutil.rmtree(path)
        (part / "summary.json").unlink()
        found, other = run(every, part)
        assert found == expected
        assert other == proof


@pytest.mark.parametrize(
    ("model", "early", "message"),
    [
        (
            {"patch_kernel_size": None},
            {},
            "early.patch_size=4: these epochs would train parameters of other shapes than "
            "patch_size=2; set model.patch_kernel_size=4, and model.positions=sincos2d or none, "
            "which have no table",
        ),
        ({"positions": "learned"}, {}, "early.patch_size=4: these epochs would train parameters"),
        ({}, {"patch_size": 3}, "early.patch_size=(3, 3) does not divide the image of 8x8 pixels"),
        ({"rope": True}, {}, "early.patch_dropout=0.5 with rope=True"),
        ({}, {"epochs": 9.0}, "early.epochs=9: longer than the training, steps=7"),
        ({}, {"patch_dropout": 1.0}, "early.patch_dropout=1.0: should be at least 0 and below 1"),
        ({}, {"epochs": -1.0}, "early.epochs=-1.0: should be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(config, model, early, message):
    config = dataclasses.replace(
        config,
        model=config.model.clone(**model),
        early=dataclasses.replace(config.early, **early),
    )
    with pytest.raises(ConfigError) as error:
        set_up(config)
    assert message in str(error.value)
