"""`early`: the first epochs on larger or on fewer patches, with the same weights."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from vit_jax import config_checks, forward_flops
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


@pytest.mark.slow
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
        (
            {},
            {"epochs": 0.0},
            "early.epochs=0, early.patch_size=4, early.patch_dropout=0.5: say",
        ),
        ({}, {"patch_size": None, "patch_dropout": None}, "say both how many epochs and what"),
        ({"patch_kernel_size": 2}, {"patch_size": 1}, "would cost more than the others"),
        ({"shifted_patches": True}, {}, "early.patch_size=4 with model.shifted_patches=True"),
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


def test_nothing_is_wrong_where_the_images_are_not_known_yet(config):
    assert config_checks.problems(dataclasses.replace(config, early=EarlyConfig())) == []
    assert config_checks.problems(config) == []
    # What the early epochs leave open is the model's own, and costs no more.
    larger = dataclasses.replace(config.early, patch_dropout=None)
    model = config.model.clone(patch_dropout=0.3)
    assert config_checks.problems(dataclasses.replace(config, model=model, early=larger)) == []


def test_the_summary_counts_what_the_early_steps_save(config):
    job = set_up(config)
    late, early = (
        3 * forward_flops(model, 8, 1, train=True)
        for model in (job.config.model, config.early.model(job.config.model))
    )
    assert early < late / 4
    assert job.train_flops_per_image == round((4 * early + 3 * late) / 7)
    kept = job.config.model.clone(patch_dropout=0.5, num_registers=1)
    assert forward_flops(kept, 8, 1, train=True) < 0.6 * forward_flops(kept, 8, 1)


def test_a_run_says_what_its_first_steps_are(config, tmp_path, capsys):
    # As on the command line, where a trial may be shorter than its parts.
    train(set_up(dataclasses.replace(config, steps=1), ["steps"]), RunFolder(tmp_path))
    out = capsys.readouterr().out
    assert "The first 4 steps: patches of 4, 50% of the patches left out" in out
    assert "NOTE: early.epochs=1.3 is longer than this training: the model itself" in out
