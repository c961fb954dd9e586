"""`steps_per_call`: several steps as one call, and the same training."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from vit_jax.config import ConfigError
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.runs.proof import read_proof
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.programs import side_by_side
from vit_jax.train.setup import set_up


@pytest.fixture
def config(tiny_config):
    """Seven batches an epoch, the last of them padded; everything random is switched on."""
    data = dataclasses.replace(
        tiny_config.data, train_split="train[:400]", eval_split="train[95%:]"
    )
    augment = dataclasses.replace(tiny_config.augment, mixup=0.8, cutmix=1.0)
    return dataclasses.replace(tiny_config, data=data, augment=augment, steps=12)


@pytest.fixture
def on(monkeypatch):
    """Let `set_up` find so many devices."""

    def choose(number):
        devices = jax.local_devices()[:number]
        monkeypatch.setattr(setup, "select_devices", lambda device: devices)

    choose(1)
    return choose


def trained(config, folder, calls=None):
    """The rows of a run, and the checksums of its last checkpoint's arrays.

    `calls` gets the number of steps of each call.
    """
    calls = [] if calls is None else calls
    job = set_up(config)
    counting = dataclasses.replace(
        job,
        train_step=lambda *given: calls.append(1) or job.train_step(*given),
        train_steps=lambda state, resident, plan: (
            calls.append(plan["mask"].shape[1]) or job.train_steps(state, resident, plan)
        ),
    )
    train(counting, RunFolder(folder))
    rows = [row for row in read_rows(folder) if "loss" in row]
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    proof = read_proof(newest / "proof")
    return [[row["split"], row["step"], row["loss"]] for row in rows], proof.arrays


def losses(rows):
    return [loss for _, _, loss in rows]


def test_plans_lie_side_by_side():
    plans = [{"index": np.arange(4) + 10 * i, "image": np.full((4, 2, 2), i)} for i in range(3)]
    together = side_by_side(plans)
    assert together["index"].tolist() == [[0, 10, 20], [1, 11, 21], [2, 12, 22], [3, 13, 23]]
    assert together["image"].shape == (4, 3, 2, 2)
    np.testing.assert_array_equal(together["image"][:, 1], plans[1]["image"])


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_several_steps_in_one_call_are_those_steps(config, on, tmp_path, feed):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, feed=feed))
    expected, _ = trained(config, tmp_path / "single")
    calls = []
    together = dataclasses.replace(config, steps_per_call=3)
    found, _ = trained(together, tmp_path / "together", calls)
    # Evaluations fall after 7 and 12 steps; calls begin at multiples of 3.
    assert calls == [3, 3, 1, 1, 1, 3]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    # XLA arranges the step otherwise inside a loop, so sums are rounded in another order.
    np.testing.assert_allclose(losses(found), losses(expected), rtol=0, atol=2e-6)
    assert np.ptp(losses(expected)) > 0.01, "the training should go somewhere"
    log = (tmp_path / "together" / "log.txt").read_text()
    assert "NOTE: steps_per_call=3: 3 of 12 steps go out alone" in log
    assert "steps_per_call" not in (tmp_path / "single" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "devices"), [("auto", 2), ("auto", 8), ("pmap", 2)])
def test_on_many_devices_too(config, on, tmp_path, parallel, devices):
    """Without dropout, whose masks depend on the devices under pmap."""
    rates = dict.fromkeys(("dropout", "attention_dropout", "embed_dropout", "drop_path"), 0.0)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, **rates), steps=7, steps_per_call=7
    )
    expected, _ = trained(dataclasses.replace(config, steps_per_call=1), tmp_path / "one")
    on(devices)
    calls = []
    config = dataclasses.replace(config, parallel=parallel)
    found, _ = trained(config, tmp_path / "many", calls)
    assert calls == [7]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose(losses(found), losses(expected), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_goes_on_makes_the_same_calls(config, on, tmp_path):
    calls = []
    config = dataclasses.replace(config, steps_per_call=3)
    expected, proof = trained(config, tmp_path / "whole", calls)
    # A stop after the first call: the checkpoint of step 3 alone is there.
    every = dataclasses.replace(config, checkpoint_every_epochs=3 / 7, keep_checkpoints=9)
    trained(every, tmp_path / "part")
    for path in (tmp_path / "part" / "checkpoints").iterdir():
        if path.name != "3":
            shutil.rmtree(path)
    (tmp_path / "part" / "summary.json").unlink()
    again = []
    found, other = trained(config, tmp_path / "part", again)
    assert again == calls[1:]
    assert [row for row in found if row[0] == "train"] == [
        row for row in expected if row[0] == "train"
    ]
    assert other == proof


def test_nonsense_is_refused(config, on):
    with pytest.raises(ConfigError, match="steps_per_call=0: should be at least 1"):
        set_up(dataclasses.replace(config, steps_per_call=0))
