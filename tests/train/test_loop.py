import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax.config import Config, ConfigError, load_config, to_json
from vit_jax.data.source import DataError
from vit_jax.inference import evaluate as evaluation
from vit_jax.inference.evaluate import evaluate_saved
from vit_jax.runs.checkpoints import CheckpointError, Checkpoints
from vit_jax.runs.folder import RunError, RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.report import TrainingError
from vit_jax.train.setup import set_up
from vit_jax.train.start import stored_config
from vit_jax.weights.run_folder import load_run

SUMMARY = {
    "status",
    "steps",
    "epochs",
    "parameters",
    "train_flops_per_image",
    "train_images_per_second",
    "seconds_total",
    "seconds_to_first_step",
    "seconds_input_wait",
    "seconds_on_device",
    "eval_accuracy",
    "test_accuracy",
    "test_loss",
    "test_examples",
    "class_names",
    "versions",
    "device_kind",
    "device_count",
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The loop does not know how many devices there are; one compiles fastest."""
    for module in (setup, evaluation):
        monkeypatch.setattr(module, "select_devices", lambda device: jax.local_devices()[:1])


def run(config, folder, resume="auto"):
    return train(set_up(config), folder, resume)


def train_losses(folder):
    return {row["step"]: row["loss"] for row in read_rows(folder) if row["split"] == "train"}


def test_a_run_leaves_its_whole_folder(tiny_config, tmp_path):
    outcome = run(dataclasses.replace(tiny_config, pictures=True), RunFolder(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert outcome.stopped_by is None
    assert summary == json.loads(json.dumps(outcome.summary))
    assert set(summary) >= SUMMARY
    assert (summary["status"], summary["steps"], summary["test_examples"]) == ("complete", 7, 355)
    assert summary["class_names"] == list("0123456789")
    assert summary["seconds_total"] > summary["seconds_to_first_step"] > 0

    # 144 images in batches of 64: three steps an epoch, the last with 16 images.
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in rows if row["split"] == "train-epoch"] == [3, 6, 7]
    assert [row["step"] for row in rows if row["split"] == "eval"] == [3, 6, 7]
    [test] = [row for row in rows if row["split"] == "test"]
    assert test["accuracy_ema"] == summary["test_accuracy"]
    steps = [row["loss"] for row in rows if row["split"] == "train"][:3]
    [epoch] = [row["loss"] for row in rows if row["split"] == "train-epoch" and row["step"] == 3]
    assert epoch == pytest.approx(np.average(steps, weights=[64, 64, 16]), rel=1e-6)

    with open(tmp_path / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in rows]
    assert list((tmp_path / "tensorboard").iterdir())
    for picture in ("curves.png", "confusion_matrix.png"):
        with Image.open(tmp_path / "pictures" / picture) as image:
            assert image.width > 400
            assert image.height > 300
    assert "7 steps" in (tmp_path / "log.txt").read_text()
    resolved = load_config(tmp_path / "config.json")
    assert resolved.model.num_classes == 10
    assert resolved.model.image_size == (8, 8)
    assert 0 < resolved.data.mean[0] < 1


def test_a_run_folder_reloads_and_evaluates_to_the_same_numbers(tiny_config, tmp_path):
    summary = run(tiny_config, RunFolder(tmp_path)).summary
    label, result = evaluate_saved(tmp_path)
    assert label == f"{tmp_path}, checkpoint 7, test"
    assert result.examples == 355
    assert result.accuracy == summary["test_accuracy"]
    assert result.loss == pytest.approx(summary["test_loss"], rel=1e-6)
    best = load_run(tmp_path, "best")
    accuracies = {
        row["step"]: row["accuracy_ema"] for row in read_rows(tmp_path) if row["split"] == "eval"
    }
    assert accuracies[best.step] == max(accuracies.values())
    assert best.class_names == tuple("0123456789")
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"99 in .*: it is not there; there are: .*7"):
        load_run(tmp_path, 99)


def test_resuming_goes_on_bit_for_bit(tiny_config, tmp_path):
    # A checkpoint after step 5, in the middle of the second epoch.
    part = dataclasses.replace(tiny_config, steps=5)
    # The learning rate must not know where the part ends.
    constant = dataclasses.replace(tiny_config.optim, schedule="constant", warmup_epochs=1.0)
    part, whole = (dataclasses.replace(c, optim=constant) for c in (part, tiny_config))
    run(whole, RunFolder(tmp_path / "whole"))
    run(part, RunFolder(tmp_path / "parts"))
    outcome = run(whole, RunFolder(tmp_path / "parts"), "must")
    assert outcome.summary["steps"] == 7
    assert train_losses(tmp_path / "parts") == train_losses(tmp_path / "whole")
    one, other = load_run(tmp_path / "whole"), load_run(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.mark.parametrize("content", ["", '{"model": {', "\x00" * 40])
def test_a_damaged_config_of_the_folder_is_that_of_its_checkpoint(
    tiny_config, tmp_path, content, capsys
):
    part = dataclasses.replace(tiny_config, steps=3)
    run(part, RunFolder(tmp_path))
    whole = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").write_text(content)
    stored = stored_config(str(tmp_path))
    assert to_json(stored).encode() == whole
    longer = dataclasses.replace(tiny_config, steps=4)
    assert train(set_up(longer, (), stored), RunFolder(tmp_path), "must").summary["steps"] == 4
    assert "config.json is damaged: what the checkpoint says" in capsys.readouterr().out
    assert load_config(tmp_path / "config.json").steps == 4
    with pytest.raises(ConfigError, match="another config"):
        run(dataclasses.replace(longer, steps=5, seed=1), RunFolder(tmp_path))


def test_a_finished_run_has_nothing_left_to_train(tiny_config, tmp_path):
    first = run(tiny_config, RunFolder(tmp_path)).summary
    rows = read_rows(tmp_path)
    again = run(tiny_config, RunFolder(tmp_path), "auto").summary
    assert again == json.loads(json.dumps(first)), "what was measured stays"
    assert [(row["step"], row["split"]) for row in read_rows(tmp_path)] == [
        (row["step"], row["split"]) for row in rows
    ]


def test_resuming_with_another_model_is_refused(tiny_config, tmp_path):
    run(tiny_config, RunFolder(tmp_path))
    wider = dataclasses.replace(tiny_config.model, mlp_dim=64)
    with pytest.raises(ConfigError, match=r"model.mlp_dim: 32 there, 64 now"):
        run(dataclasses.replace(tiny_config, model=wider), RunFolder(tmp_path))
    other = tiny_config.model.clone(scan_layers=True, remat="dots")  # how, not what
    longer = dataclasses.replace(tiny_config, model=other, steps=8, log_every_steps=2)
    assert run(longer, RunFolder(tmp_path)).summary["steps"] == 8


def test_resume_must_and_never(tiny_config, tmp_path):
    with pytest.raises(RunError, match="holds no checkpoint"):
        run(tiny_config, RunFolder(tmp_path), "must")
    run(tiny_config, RunFolder(tmp_path), "never")
    with pytest.raises(RunError, match="holds a run at step 7"):
        run(tiny_config, RunFolder(tmp_path), "never")


def test_only_the_newest_and_the_best_checkpoints_stay(tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, steps=15, keep_checkpoints=1)
    run(config, RunFolder(tmp_path))
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {15, checkpoints.best_step()}
    checkpoints.close()


def test_one_prediction_for_all_images_is_a_warning(tiny_config, tmp_path, capsys):
    # With a learning rate of zero the head stays at zero: every image gets class 0.
    optim = dataclasses.replace(tiny_config.optim, learning_rate=0.0, ema_decay=None)
    run(dataclasses.replace(tiny_config, optim=optim, steps=1), RunFolder(tmp_path))
    assert "every prediction on eval is the class '0'" in capsys.readouterr().out


def test_a_loss_that_is_not_a_number_ends_the_run(tiny_config, tmp_path):
    optim = dataclasses.replace(tiny_config.optim, learning_rate=1e30, clip_norm=None)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d.*No checkpoint was"):
        run(dataclasses.replace(tiny_config, optim=optim), RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": {"num_classes": 7}}, ConfigError, "model.num_classes=7, but digits has 10"),
        ({"model": {"patch_size": 3}}, ValueError, "patch_size=.* does not divide"),
        ({"model": {"num_heads": 5}}, ValueError, "num_heads=5 does not divide width=16"),
        ({"model": {"channels": 3}}, ValueError, "channels=3 was declared"),
        ({"data": {"mean": (0.5, 0.5, 0.5)}}, ConfigError, "data.mean"),
        ({"data": {"train_split": "train[:0]"}}, DataError, "is empty"),
        ({"data": {"name": "cifar"}}, DataError, "data.name='cifar' is no known data set"),
    ],
)
def test_a_config_that_cannot_work_fails_before_compiling(
    tiny_config: Config, change, error, message, tmp_path
):
    [(part, fields)] = change.items()
    changed = dataclasses.replace(getattr(tiny_config, part), **fields)
    with pytest.raises(error, match=message):
        run(dataclasses.replace(tiny_config, **{part: changed}), RunFolder(tmp_path))


def test_a_length_before_the_newest_checkpoint_is_refused(tiny_config, tmp_path):
    before = run(tiny_config, RunFolder(tmp_path)).summary
    with pytest.raises(RunError, match="at step 7, beyond the 5 steps"):
        run(dataclasses.replace(tiny_config, steps=5), RunFolder(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(before))
