"""Training that starts from weights, and judging weights as they are."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from vit_jax import ViT, load_pretrained, save_pretrained
from vit_jax.cli import main, train_command
from vit_jax.config import ConfigError, to_json
from vit_jax.data.catalog import open_source
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference.evaluate import evaluate_saved
from vit_jax.optim import OptimConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.train.loop import train
from vit_jax.train.setup import set_up
from vit_jax.weights import WeightsError
from vit_jax.weights.layout import Preprocessing
from vit_jax.weights.run_folder import load_run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model for digits, in timm's layout, with classes of its own."""
    model = ViT(4, 16, 2, 2, mlp_dim=24, num_classes=10, image_size=(8, 8), channels=1)
    variables = model.init(jax.random.key(7), np.zeros((1, 8, 8, 1), np.float32))
    names = tuple(f"digit {i}" for i in range(10))
    path = tmp_path_factory.mktemp("weights") / "small"
    save_pretrained(path, "timm", model, variables, Preprocessing((0.25,), (0.5,), names), say=None)
    return path


@pytest.fixture
def tuning(tiny_config, weights):
    """A short fine-tuning of those weights."""
    model = ViT(drop_path=0.1)
    return dataclasses.replace(tiny_config, model=model, pretrained=str(weights), steps=3)


def test_a_training_starts_from_the_weights_and_their_architecture(tuning, weights):
    job = set_up(tuning)
    model, data = job.config.model, job.config.data
    assert (model.width, model.depth, model.mlp_dim, model.num_classes) == (16, 2, 24, 10)
    assert model.drop_path == 0.1  # what the config says beside it stays
    assert (data.mean, data.std) == ((0.25,), (0.5,))
    assert data.image_size is None  # digits have their own
    state = job.initial_state()
    _, variables, _ = load_pretrained(weights, say=None)
    found, expected = state.params, variables["params"]
    head = found.pop("head")
    expected.pop("head")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # The weights' ten classes are called otherwise: they are not these ten.
    assert not np.any(head["kernel"])
    assert job.changes == (
        "model.drop_path=0.1, where the weights have 0.0",
        "head: initialised anew for 10 classes (instead of 10); train it",
    )


def test_a_field_named_on_the_command_line_counts_at_its_default_too(tuning):
    assert set_up(tuning).config.model.mlp_dim == 24
    with pytest.raises(WeightsError, match=r"model\.mlp_dim=None, where the weights have 24"):
        set_up(tuning, overridden=["model.mlp_dim"])
    job = set_up(tuning, overridden=["model.drop_path", "model.norm_eps"])
    assert job.config.model.norm_eps == 1e-6


def test_a_run_goes_on_without_the_file_it_started_from(tuning, weights, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(weights, copy)
    tuning = dataclasses.replace(tuning, pretrained=str(copy))
    train(set_up(dataclasses.replace(tuning, steps=2)), RunFolder(tmp_path / "run"))
    shutil.rmtree(copy)
    config = tmp_path / "config.json"
    config.write_text(to_json(tuning))
    arguments = ["--config", str(config), "--workdir", str(tmp_path / "run")]
    assert train_command(arguments) == 0
    assert load_run(tmp_path / "run").step == 3
    # A new run would need it.
    assert train_command([*arguments[:3], str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_run_says_what_it_starts_from_and_goes_on_without_starting_again(tuning, tmp_path):
    constant = OptimConfig(learning_rate=1e-2, schedule="constant")
    tuning = dataclasses.replace(tuning, optim=constant)
    train(set_up(tuning), RunFolder(tmp_path / "whole"))
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert f"Starting from the weights in {tuning.pretrained}" in log
    assert "  head: initialised anew for 10 classes" in log

    part = dataclasses.replace(tuning, steps=2)
    train(set_up(part), RunFolder(tmp_path / "parts"))
    train(set_up(tuning), RunFolder(tmp_path / "parts"))
    one, other = (load_run(tmp_path / name).params for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_can_be_started_from_and_converted(tiny_config, tmp_path, capsys):
    train(set_up(tiny_config), RunFolder(tmp_path / "run"))
    run = load_run(tmp_path / "run")
    for source in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "7"):
        model, variables, spec = load_pretrained(source)
        assert model == run.model
        assert spec.layout == "run"
        assert spec.class_names == tuple("0123456789")
        jax.tree.map(np.testing.assert_array_equal, variables["params"], run.params)

    again = dataclasses.replace(tiny_config, model=ViT(), pretrained=str(tmp_path / "run"))
    job = set_up(again)
    assert job.changes == ()  # the same classes: the head stays
    jax.tree.map(np.testing.assert_array_equal, job.initial_state().params, run.params)

    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "timm"]) == 0
    assert f"run -> timm: {tmp_path / 'out'}" in capsys.readouterr().out
    _, variables, spec = load_pretrained(tmp_path / "out", say=None)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], run.params)
    assert spec.class_names == tuple("0123456789")


def test_weights_that_do_not_fit_leave_no_run_folder(tuning, tmp_path):
    wider = dataclasses.replace(tuning, model=ViT(width=24))
    message = r"pretrained: .*cls_token has shape \(1, 1, 16\).*config sets model\.width=24, where"
    with pytest.raises(WeightsError, match=message):
        set_up(wider)
    with pytest.raises(WeightsError, match=r"pretrained: .*there is no such file or folder"):
        set_up(dataclasses.replace(tuning, pretrained=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"optim\.layer_decay=1\.5: should be above 0"):
        set_up(dataclasses.replace(tuning, optim=OptimConfig(layer_decay=1.5)))


def test_a_linear_probe_leaves_the_weights_alone(tuning, tmp_path):
    probe = dataclasses.replace(tuning, optim=OptimConfig(freeze=("backbone",), learning_rate=0.1))
    job = set_up(probe)
    before = jax.tree.map(np.array, job.initial_state().params)
    train(job, RunFolder(tmp_path))
    after = load_run(tmp_path).params
    assert np.any(after.pop("head")["kernel"])
    before.pop("head")
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_weights_are_judged_on_data_of_the_same_classes(tmp_path):
    model = ViT(4, 16, 1, 2, num_classes=10, image_size=(8, 8), channels=1, head_zero_init=False)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))

    def saved(name, classes):
        spec = Preprocessing((0.25,), (0.5,), classes)
        return save_pretrained(tmp_path / name, "timm", model, variables, spec, say=None)

    digits = DataConfig(name="digits")
    label, result = evaluate_saved(saved("same", tuple("0123456789")), digits)
    assert label.endswith("same, test")
    assert result.examples == 355
    source = open_source(digits, "test")
    pixels = (source.images / np.float32(255) - 0.25) / 0.5
    logits = np.asarray(model.apply(variables, pixels))
    expected = np.mean(np.argmax(logits, axis=1) == source.labels)
    assert result.accuracy == pytest.approx(float(expected), abs=1e-9)
    with pytest.raises(DataError, match="in another order"):
        evaluate_saved(saved("turned", tuple("9876543210")), digits)
    with pytest.raises(DataError, match="name the data to evaluate on, as --data"):
        evaluate_saved(tmp_path / "same")


def test_a_head_for_other_classes_is_not_judged(tmp_path, capsys):
    model = ViT(4, 16, 1, 2, num_classes=3, image_size=(8, 8), channels=1)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    save_pretrained(tmp_path / "m", "timm", model, variables, Preprocessing((0.2,), (0.5,)))
    assert main(["evaluate", str(tmp_path / "m"), "--data", "digits"]) == 2
    error = capsys.readouterr().err
    assert "tells 3 classes apart, digits has 10" in error
    assert "Fine-tune first: python train.py --config CONFIG --config.pretrained=" in error


def test_summary_reads_weights(weights, capsys):
    assert main(["summary", str(weights)]) == 0
    out = capsys.readouterr().out
    assert "encoder/block_1/mlp/fc1/kernel              (16, 24)" in out
    leaves = 16 * 16 + 16 + 16 + 5 * 16  # patches, class token, positions
    block = 4 * 16 + 16 * 48 + 48 + 16 * 16 + 16 + 16 * 24 + 24 + 24 * 16 + 16
    assert f"parameters         {leaves + 2 * block + 32 + 170:,}" in out
