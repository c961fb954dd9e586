"""The pictures of a run: which there are, what they show, and that they change nothing else."""

import dataclasses
import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.source import ArraySource, DataError
from vit_jax.models import look_inside
from vit_jax.ops.attention_maps import rollout
from vit_jax.ops.augment import AugmentConfig
from vit_jax.runs.folder import RunFolder
from vit_jax.train import evaluate as evaluation
from vit_jax.train import gallery, setup
from vit_jax.train.loop import train
from vit_jax.train.report import Report, TrainingError
from vit_jax.train.setup import set_up
from vit_jax.train.shown import attention_maps, mixed_names, predictions_on, readable, visible
from vit_jax.weights.run_folder import load_run

WHOLE = {
    *("attention.gif", "batch.png", "confusion_matrix.png", "curves.png", "filters.png"),
    *("patches.png", "per_class.png", "positions.png", "predictions.png", "mistakes.png"),
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:1])


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(tiny_config, pictures=True)


def names(folder):
    return {path.name for path in (folder / "pictures").iterdir() if path.is_file()}


def test_a_run_draws_all_pictures_and_learns_the_same_as_without(config, tmp_path):
    train(set_up(config), RunFolder(tmp_path / "with"))
    assert names(tmp_path / "with") == WHOLE
    frames = sorted(path.name for path in (tmp_path / "with/pictures/attention").iterdir())
    assert frames == ["step_0000003.png", "step_0000006.png", "step_0000007.png"]
    with Image.open(tmp_path / "with/pictures/attention.gif") as film:
        assert film.n_frames == 3
    assert "confusion" in (tmp_path / "with/report.html").read_text().lower()
    summary = json.loads((tmp_path / "with/summary.json").read_text())
    assert 0 < summary["seconds_pictures"] < summary["seconds_total"]

    train(set_up(dataclasses.replace(config, pictures=False)), RunFolder(tmp_path / "without"))
    assert not (tmp_path / "without/pictures").exists()
    assert not (tmp_path / "without/report.html").exists()
    first, second = (load_run(tmp_path / name).params for name in ("with", "without"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_picture_that_fails_is_said_and_ends_nothing(config, tmp_path, monkeypatch):
    from vit_jax.pictures import weights

    def broken(*args):
        raise ZeroDivisionError("no colours left")

    monkeypatch.setattr(weights, "draw_filters", broken)
    outcome = train(set_up(config), RunFolder(tmp_path))
    assert outcome.summary["status"] == "complete"
    assert names(tmp_path) == WHOLE - {"filters.png", "positions.png"}
    said = "NOTE: weights could not be drawn: ZeroDivisionError('no colours left')"
    assert said in (tmp_path / "log.txt").read_text()


def test_a_run_that_fails_leaves_its_curves_and_a_report(config, tmp_path):
    optim = dataclasses.replace(config.optim, learning_rate=1e30, clip_norm=None)
    with pytest.raises(TrainingError):
        train(set_up(dataclasses.replace(config, optim=optim)), RunFolder(tmp_path))
    assert "curves.png" in names(tmp_path)
    assert "complete" not in (tmp_path / "report.html").read_text().split("</header>")[0]
    assert not (tmp_path / "summary.json").exists()


def test_the_thread_has_weights_of_its_own(config, tmp_path):
    """The next step reuses the buffers: here they are gone before the thread begins to draw."""
    job = set_up(config)
    folder = RunFolder(tmp_path)
    report = Report(job, folder, 0)
    shown = gallery.Gallery(job, folder, report, 0)
    begin = threading.Event()
    shown._later(begin.wait)
    params = job.initial_state().params
    shown.after_evaluation(params, 7, 0.25)
    jax.block_until_ready(params)
    for leaf in jax.tree.leaves(params):
        leaf.delete()
    begin.set()
    shown._pool.shutdown()
    report.close()
    assert (tmp_path / "pictures/attention/step_0000007.png").exists()
    assert "could not be drawn" not in (tmp_path / "log.txt").read_text()


def test_the_surest_mistakes_are_drawn(config, tmp_path, monkeypatch):
    from vit_jax.pictures import predictions

    drawn = {}

    def note(images, labels, predicted, probabilities, names, path, among):
        drawn.update(labels=labels, predicted=predicted, probabilities=probabilities, among=among)
        path.touch()

    monkeypatch.setattr(predictions, "draw_mistakes", note)
    train(set_up(config), RunFolder(tmp_path))
    job, params = set_up(config), load_run(tmp_path).params
    source = job.sources["eval"]
    indices, expected, shares = predictions_on(job.config, params, source, range(len(source)))
    wrong = expected != source.labels[indices]
    assert drawn["among"] == (wrong.sum(), len(source))
    surest = np.sort(shares[wrong])[::-1][: len(drawn["labels"])]
    np.testing.assert_allclose(drawn["probabilities"], surest, rtol=1e-5)
    assert (drawn["labels"] != drawn["predicted"]).all()


def test_every_evaluation_that_is_due_is_made_once(config, tmp_path, monkeypatch):
    made = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *args: made.append(1) or evaluate(*args))
    data = dataclasses.replace(config.data, test_split=None)
    train(set_up(dataclasses.replace(config, data=data)), RunFolder(tmp_path))
    assert len(made) == 3  # after steps 3, 6 and 7
    assert "confusion_matrix.png" in names(tmp_path)


def test_a_run_that_is_stopped_draws_its_curves_and_leaves(config, tmp_path):
    job = set_up(config)
    plan = job.train_feed.plan

    def plan_and_stop(number):
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        return plan(number)

    job.train_feed.plan = plan_and_stop
    outcome = train(job, RunFolder(tmp_path))
    assert outcome.stopped_by is signal.SIGTERM
    assert {"curves.png"} <= names(tmp_path) <= {"curves.png", "batch.png", "patches.png"}
    assert (tmp_path / "report.html").exists()
    before = (tmp_path / "pictures/batch.png").stat().st_mtime_ns

    # Going on draws the rest, and the first batch is not drawn anew.
    assert train(set_up(config), RunFolder(tmp_path)).summary["steps"] == 7
    assert names(tmp_path) == WHOLE
    assert (tmp_path / "pictures/batch.png").stat().st_mtime_ns == before


def test_without_held_out_images_what_needs_them_is_left_out(config, tmp_path):
    data = dataclasses.replace(config.data, eval_split=None, test_split=None)
    train(set_up(dataclasses.replace(config, data=data)), RunFolder(tmp_path))
    assert names(tmp_path) == {
        *("batch.png", "curves.png", "filters.png", "patches.png", "positions.png")
    }


@pytest.mark.parametrize(("evaluations", "expected"), [(5, 5), (20, 20), (50, 20), (301, 20)])
def test_long_runs_draw_a_few_frames_spread_over_all(evaluations, expected):
    drawn, last = [], 0
    for done in range(1, evaluations + 1):
        if gallery.is_frame(last, done, evaluations):
            drawn.append(done)
            last = done
    assert len(drawn) == expected
    assert drawn[-1] == evaluations


@pytest.mark.slow
def test_the_batch_is_what_the_model_sees(config, tmp_path, monkeypatch):
    """Mixed, erased, shifted: put back through the normalisation it is the step's own input."""
    from vit_jax.pictures import batch

    seen = {}
    monkeypatch.setattr(
        batch,
        "draw_batch",
        lambda images, labels, path: (seen.update(images=images, labels=labels), path.touch()),
    )
    augment = AugmentConfig(crop_padding=1, mixup=0.8, erasing=0.5)
    job = set_up(dataclasses.replace(config, augment=augment))
    train(job, RunFolder(tmp_path))
    from vit_jax.train.step import prepare

    whole = job.train_feed.gather(
        job.train_feed.resident, jax.tree.map(jnp.asarray, job.train_feed.plan(0))
    )
    mixed = prepare(whole, job.recipe, 0)
    expected = mixed.images[: gallery.IN_A_BATCH] * job.recipe.std[0] + job.recipe.mean[0]
    np.testing.assert_allclose(seen["images"], np.clip(expected, 0, 1), atol=1e-5)
    texts = [
        mixed_names("0123456789", int(a), int(b), float(w))
        for a, b, w in zip(mixed.labels, mixed.partner_labels, mixed.weight, strict=True)
    ]
    assert seen["labels"] == texts[: gallery.IN_A_BATCH]
    assert any(" + " in text for text in texts)


def test_names_of_mixed_images():
    assert mixed_names(("cat", "dog"), 0, 1, 0.7) == "cat 0.70 + dog 0.30"
    assert mixed_names(("cat", "dog"), 0, 1, 1.0) == "cat"
    assert mixed_names(("cat", "dog"), 0, 1, 0.0) == "dog"
    assert mixed_names(("cat", "dog"), 1, 1, 0.5) == "dog"


def test_images_become_visible_whatever_their_type():
    eight = np.array([[[[0]], [[51]]], [[[255]], [[102]]]], np.uint8)
    np.testing.assert_allclose(visible(eight, eight.dtype).ravel(), [0, 0.2, 1, 0.4], atol=1e-6)
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_allclose(visible(sixteen, sixteen.dtype).ravel(), [0, 0.2, 1, 0.4], atol=1e-6)
    floats = eight.astype(np.float32) * 10 - 500
    np.testing.assert_allclose(visible(floats, floats.dtype).ravel(), [0, 0.2, 1, 0.4], atol=1e-6)
    augmented = np.array([[[[-0.3]], [[0.5]], [[1.4]]]], np.float32)
    np.testing.assert_allclose(visible(augmented, np.dtype("uint8")).ravel(), [0, 0.5, 1])


class Partly(ArraySource):
    """A source of which some files hold no picture."""

    def __getitem__(self, index):
        if index == 2:
            raise DataError("broken")
        return super().__getitem__(index)


def test_predictions_leave_out_what_cannot_be_read(config, monkeypatch):
    job = set_up(config)
    held_out, params = job.sources["eval"], job.initial_state().params
    some = np.arange(9)
    source = Partly(
        held_out.images[some], held_out.labels[some], held_out.class_names, "f", None, {5: "empty"}
    )
    there, images = readable(source, [0, 2, 3, 5, 8])
    assert there == [0, 3, 8]
    np.testing.assert_array_equal(images, source.images[[0, 3, 8]])

    monkeypatch.setattr("vit_jax.train.shown.BATCH", 4)  # 7 images: a full batch and a padded one
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    indices, predictions, probabilities = predictions_on(job.config, params, source, range(9))
    assert indices.tolist() == [0, 1, 3, 4, 6, 7, 8]
    pixels = source.images[indices] / 255
    normalised = (pixels - job.recipe.mean[0]) / job.recipe.std[0]
    logits = job.config.model.apply({"params": params}, normalised.astype(np.float32))
    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_array_equal(predictions, expected.argmax(1))
    np.testing.assert_allclose(probabilities, expected.max(1), rtol=1e-5)


@pytest.mark.parametrize("fields", [{"class_token": True}, {"num_registers": 2}], ids=str)
def test_the_maps_are_the_mean_of_the_patches_where_those_are_pooled(fields, config):
    model = config.model.clone(pool="gap", **fields)
    job = set_up(dataclasses.replace(config, model=model))
    params = job.initial_state().params
    images = job.sources["eval"].images[:3]
    average, through, _ = attention_maps(job.config, params, jnp.asarray(images))
    normalised = (images / 255 - job.recipe.mean[0]) / job.recipe.std[0]
    seen = look_inside(job.config.model, {"params": params}, normalised.astype(np.float32))
    prefix = job.config.model.num_prefix_tokens
    rows = np.asarray(seen.attention)[:, :, :, prefix:, prefix:].mean((0, 2, 3))
    np.testing.assert_allclose(average.reshape(3, 4), rows, atol=1e-6)
    rolled = np.asarray(rollout(seen.attention))[:, prefix:, prefix:].mean(1)
    np.testing.assert_allclose(through.reshape(3, 4), rolled, atol=1e-6)


def test_the_maps_are_the_class_tokens(config):
    job = set_up(config)
    params = job.initial_state().params
    images = job.sources["eval"].images[:3]
    average, through, heads = attention_maps(job.config, params, jnp.asarray(images))
    assert (average.shape, through.shape, heads.shape) == ((3, 2, 2), (3, 2, 2), (3, 2, 2, 2))
    normalised = (images / 255 - job.recipe.mean[0]) / job.recipe.std[0]
    _, seen = job.config.model.apply(
        {"params": params}, normalised.astype(np.float32), mutable="intermediates"
    )
    blocks = seen["intermediates"]["encoder"]
    rows = np.stack([blocks[f"block_{i}"]["attn"]["attention"][0][:, :, 0, 1:] for i in (0, 1)])
    np.testing.assert_allclose(average.reshape(3, 4), rows.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(heads.reshape(3, 2, 4), rows[1], atol=1e-6)
