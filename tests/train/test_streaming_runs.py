"""Trainings on folders: the two feeds, exact resume, and bad files."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax.commands.data import where
from vit_jax.data.catalog import open_splits
from vit_jax.data.order import Order
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference import evaluate as evaluation
from vit_jax.inference.evaluate import evaluate_saved
from vit_jax.inference.saved import open_model
from vit_jax.ops.augment import AugmentConfig
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.sharding import make_mesh, replicated
from vit_jax.train import setup
from vit_jax.train.loop import train
from vit_jax.train.report import TrainingError
from vit_jax.train.setup import set_up
from vit_jax.train.start import stored_config
from vit_jax.weights.run_folder import load_run

STEPS = 30


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """What runs on many devices is tested elsewhere; one compiles fastest."""
    for module in (setup, evaluation):
        monkeypatch.setattr(module, "select_devices", lambda device: jax.local_devices()[:1])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 34 pictures of noise, of different sizes, and eight to validate on."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(42):
        split = "train" if number < 34 else "val"
        path = root / split / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = rng.integers(10, 30, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def config(tiny_config, photographs):
    """Everything random switched on, in both feeds, with crops cut out of the files."""

    def make(root=photographs, **fields):
        data = DataConfig(
            name="folder",
            root=str(root),
            train_split="train",
            eval_split="val",
            test_split=None,
            image_size=8,
            **{"workers": 0, **fields},
        )
        augment = AugmentConfig(
            crop_area=(0.3, 1.0),
            flip="alternating",
            policy="randaugment",
            erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
        )
        changes = {"data": data, "augment": augment, "batch_size": 8, "steps": STEPS}
        return dataclasses.replace(tiny_config, **changes)

    return make


def watched(config, stop_at=None):
    """A job that notes what its feed sends, and is asked to stop at a step."""
    job = set_up(config)
    plans, plan = [], job.train_feed.plan

    def note(step):
        plans.append(plan(step))
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return plans[-1]

    job.train_feed.plan = note
    return job, plans


def leaves(folder):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_run(folder).params)]


def losses(folder, split="train"):
    return {row["step"]: row["loss"] for row in read_rows(folder) if row["split"] == split}


@pytest.mark.slow
def test_both_feeds_take_the_files_in_the_same_order(config, photographs, tmp_path):
    names = {}
    for feed in ("resident", "streaming"):
        job, plans = watched(config(feed=feed))
        train(job, RunFolder(tmp_path / feed))
        assert job.data_facts["train"]["feed"] == feed
        files = sorted(path.name for path in (photographs / "train").rglob("*.png"))
        source = open_splits(job.config.data)["train"]
        assert len(plans) == STEPS
        names[feed] = [
            Path(source.name(int(index))).name if real else None
            for plan in plans
            for index, real in zip(plan["index"], plan["mask"], strict=True)
        ]
        epoch = [name for name in names[feed][: 5 * 8] if name]
        assert sorted(epoch) == files
    assert names["resident"] == names["streaming"]


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_a_run_stopped_at_step_11_goes_on_with_the_same_batches_to_the_last_bit(
    config, tmp_path, feed
):
    whole, expected = watched(config(feed=feed))
    train(whole, RunFolder(tmp_path / "whole"))

    first, before = watched(config(feed=feed), stop_at=10)
    outcome = train(first, RunFolder(tmp_path / "parts"))
    assert outcome.stopped_by == signal.SIGINT
    assert outcome.summary["steps"] == 11
    second, after = watched(config(feed=feed))
    train(second, RunFolder(tmp_path / "parts"))

    assert len(before) == 11
    assert len(after) == STEPS - 11
    for ours, theirs in zip(before + after, expected, strict=True):
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "parts", "eval") == losses(tmp_path / "whole", "eval")
    for ours, theirs in zip(leaves(tmp_path / "parts"), leaves(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def copied(photographs, folder):
    for path in photographs.rglob("*.png"):
        target = folder / path.relative_to(photographs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.slow
def test_a_bad_file_ends_a_run_after_a_checkpoint_and_skipping_goes_on(
    config, photographs, tmp_path
):
    root = copied(photographs, tmp_path / "data")
    streaming = config(root, feed="streaming")
    source = open_splits(streaming.data)["train"]
    # A file that is not met in the first two steps.
    order = Order(34, 8, streaming.seed)
    met = {int(i) for step in (0, 1) for i in order.slots(step)["index"]}
    torn = Path(source.name(min(set(range(34)) - met)))
    torn.write_bytes(torn.read_bytes()[:60])
    job, _ = watched(streaming)
    with pytest.raises(TrainingError, match=rf"{torn.name} cannot be decoded .*on_bad_image=skip"):
        train(job, RunFolder(tmp_path / "run"))
    saved = load_run(tmp_path / "run").step
    assert saved >= 2
    assert saved == max(losses(tmp_path / "run"))

    # As the message says: the same command with on_bad_image=skip goes on.
    skipping = config(root, feed="streaming", on_bad_image="skip")
    stored = stored_config(str(tmp_path / "run"))
    train(set_up(skipping, stored=stored), RunFolder(tmp_path / "run"))
    train(set_up(skipping), RunFolder(tmp_path / "whole"))
    for folder in (tmp_path / "run", tmp_path / "whole"):
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "complete"
        assert summary["bad_images"] == 1
        listed = (folder / "bad_images.txt").read_text()
        assert listed.startswith(f"{torn}\tcannot be decoded (")
        assert "1 file without a picture" in (folder / "log.txt").read_text()
        epochs = [row for row in read_rows(folder) if row["split"] == "train-epoch"]
        assert len(epochs) == 6
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_bad_files_stay_listed_when_a_run_goes_on(config, photographs, tmp_path):
    root = copied(photographs, tmp_path / "data")
    for path in sorted((root / "train").rglob("*.png"))[:3]:
        path.write_bytes(b"torn")
    skipping = config(root, feed="streaming", on_bad_image="skip")
    job, _ = watched(skipping, stop_at=6)
    train(job, RunFolder(tmp_path / "run"))
    assert len((tmp_path / "run" / "bad_images.txt").read_text().splitlines()) == 3
    longer = dataclasses.replace(skipping, steps=8)
    train(set_up(longer), RunFolder(tmp_path / "run"))
    assert len((tmp_path / "run" / "bad_images.txt").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["bad_images"] == 3


def test_a_batch_of_bad_files_alone_changes_nothing_for_the_worse(config, photographs, tmp_path):
    root = copied(photographs, tmp_path / "data")
    for path in sorted((root / "train").rglob("*.png"))[:3]:
        path.write_bytes(b"torn")
    single = dataclasses.replace(
        config(root, on_bad_image="skip"), batch_size=1, steps=34, augment=AugmentConfig()
    )
    train(set_up(single), RunFolder(tmp_path / "run"))
    values = losses(tmp_path / "run")
    assert len(values) == 34
    assert sum(value == 0 for value in values.values()) == 3
    assert np.isfinite(list(values.values())).all()


@pytest.mark.slow
def test_an_evaluation_elsewhere_reads_images_as_the_training_did(config, photographs, tmp_path):
    squashing = dataclasses.replace(config(resize="squash"), steps=2)
    train(set_up(squashing), RunFolder(tmp_path / "run"))
    label, here = evaluate_saved(tmp_path / "run", None, "val")
    elsewhere = where(str(copied(photographs, tmp_path / "copy")))
    _, there = evaluate_saved(tmp_path / "run", elsewhere, "val")
    assert (there.loss, there.accuracy) == (here.loss, here.accuracy)
    assert label.endswith(", val")


def test_the_order_of_classes_is_kept_and_used(config, photographs, tmp_path, capsys):
    train(set_up(dataclasses.replace(config(), steps=2)), RunFolder(tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["train"]["classes"] == {"cat": 17, "dog": 17}
    assert facts["eval"]["classes"] == {"cat": 4, "dog": 4}
    assert facts["train"]["image_shape"] == [8, 8, 3]
    assert load_run(tmp_path / "run").class_names == ("cat", "dog")
    other = copied(photographs, tmp_path / "other")
    for split in ("train", "val"):
        (other / split / "cat").rename(other / split / "zebra")
    data = DataConfig(name="folder", root=str(other), train_split="train")
    # Other names in the same number are said, the same names in another order refused.
    assert evaluate_saved(tmp_path / "run", data, "val")[1].examples == 8
    assert "calls its classes cat, dog …, folder dog, zebra …" in capsys.readouterr().out
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    state = checkpoints.restore_weights(2, replicated(make_mesh(jax.devices()[:1])))
    assert state[1]["class_names"] == ["cat", "dog"]
    checkpoints.close()
    saved = dataclasses.replace(open_model(tmp_path / "run"), class_names=("dog", "cat"))
    data = saved.config.data
    images = open_splits(data)["eval"]
    with pytest.raises(DataError, match=r"in another order, \('dog', 'cat'\) instead of"):
        evaluation._check_classes(saved, data, images)


def test_the_part_held_out_of_a_single_folder_is_the_same_in_every_run(config, photographs):
    def auto(**fields):
        whole = config(photographs / "train", holdout=0.25, **fields)
        data = dataclasses.replace(whole.data, eval_split="auto", test_split="auto")
        return set_up(dataclasses.replace(whole, data=data))

    job = auto()
    assert job.test_feed is None
    assert job.data_facts["train"]["classes"] == {"cat": 13, "dog": 13}
    assert job.data_facts["eval"]["classes"] == {"cat": 4, "dog": 4}
    assert auto().fingerprints == job.fingerprints
    assert auto(holdout_seed=1).fingerprints["eval"] != job.fingerprints["eval"]
