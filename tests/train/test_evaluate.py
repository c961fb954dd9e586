import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)

from vit_jax.data.catalog import open_source
from vit_jax.ops.metrics import count
from vit_jax.train import setup
from vit_jax.train.evaluate import Evaluation, evaluate


def calibration_error(probabilities, labels):
    """arXiv 1706.04599, equations 2 to 5, as they stand there."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.sum() / len(labels) * gap
    return error


def check(result, logits, labels):
    """Compare with scikit-learn on the logits of all images at once."""
    classes = range(logits.shape[1])
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    predictions = logits.argmax(axis=1)
    assert result.examples == len(labels)
    np.testing.assert_array_equal(
        result.confusion, confusion_matrix(labels, predictions, labels=classes)
    )
    assert result.accuracy == pytest.approx(accuracy_score(labels, predictions), abs=1e-12)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=classes)
    assert result.top5_accuracy == pytest.approx(top5, abs=1e-12)
    assert result.loss == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-5)
    expected = calibration_error(probabilities, labels)
    assert result.calibration_error == pytest.approx(expected, abs=1e-6)
    recalls = recall_score(labels, predictions, labels=classes, average=None, zero_division=np.nan)
    expected = [None if np.isnan(recall) else recall for recall in recalls]
    assert result.per_class_accuracy == pytest.approx(tuple(expected), abs=1e-12)


@functools.cache
def draw_weights(model, mean, std, pixels):
    """Two sets of weights by name, and the logits of all images with each."""
    images = np.frombuffer(pixels, np.uint8).reshape(-1, *model.image_size, model.channels)
    images = ((images / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    # The second set is less sure of itself: other confidences, and other losses.
    weights = {"": params, "_ema": jax.tree.map(lambda x: x / 2, params)}
    weights = jax.device_get(weights)
    apply = jax.jit(model.apply)
    return weights, {name: apply({"params": each}, images) for name, each in weights.items()}


@pytest.mark.parametrize(
    ("num_devices", "parallel", "batch_size"),
    [
        (1, "auto", 56),
        (2, "auto", 56),
        (8, "auto", 56),
        (8, "auto", 1024),
        (1, "pmap", 56),
        (2, "pmap", 56),
        (8, "pmap", 56),
        (8, "pmap", 1024),
    ],
)
def test_every_image_counts_once(plain_config, num_devices, parallel, batch_size, monkeypatch):
    devices = jax.local_devices()[:num_devices]
    monkeypatch.setattr(setup, "select_devices", lambda device: devices)
    model = dataclasses.replace(plain_config.model, head_zero_init=False)
    config = dataclasses.replace(
        plain_config, model=model, batch_size=batch_size, parallel=parallel
    )
    job = setup.set_up(config)
    source = open_source(job.config.data, "test")
    data = job.config.data
    weights, logits = draw_weights(job.config.model, data.mean, data.std, source.images.tobytes())
    results = evaluate(job.eval_step, weights, job.test_feed)
    assert list(results) == ["", "_ema"]
    for name, result in results.items():
        assert result.examples == 355
        check(result, logits[name], source.labels)
    assert results["_ema"].loss < 0.9 * results[""].loss


def made_up(batches, size, classes, seed=0):
    """A feed and a step on logits that are there already; the last batch is padded by three."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batches * size, classes)).astype(np.float32)
    # Right more often than not, and no image of the last class.
    labels = rng.integers(0, classes - 1, batches * size).astype(np.int32)
    logits[np.arange(len(labels)), labels] += 1.5
    plans = []

    def plan(number):
        plans.append(number)
        part = slice(number * size, (number + 1) * size)
        mask = np.ones(size, np.float32)
        if number == batches - 1:
            mask[-3:] = 0
        return {"logits": logits[part], "label": labels[part], "mask": mask}

    def step(scale, resident, plan):
        return jax.jit(count)(scale * resident * plan["logits"], plan["label"], plan["mask"])

    feed = types.SimpleNamespace(steps_per_epoch=batches, resident=jnp.float32(1), plan=plan)
    return feed, step, logits[:-3], labels[:-3], plans


@pytest.mark.parametrize("batches", [1, 4])
def test_several_sets_of_weights_take_one_pass_over_the_feed(batches):
    feed, step, logits, labels, plans = made_up(batches, 50, 8)
    scales = {"": 1.0, "_ema": 2.0, "_zero": 0.25}
    results = evaluate(step, scales, feed)
    assert plans == list(range(batches))
    for name, scale in scales.items():
        check(results[name], scale * logits, labels)
        # The same as alone.
        alone = evaluate(step, {name: scale}, feed)[name]
        for field in dataclasses.fields(Evaluation):
            np.testing.assert_array_equal(
                getattr(alone, field.name), getattr(results[name], field.name)
            )
    assert len({result.calibration_error for result in results.values()}) == 3


def test_a_class_without_images_has_no_accuracy():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [5, 0, 0]])
    result = Evaluation(0.0, 0.3, 1.0, 0.0, 9, confusion)
    assert result.per_class_accuracy == (0.75, None, 0.0)


def test_a_perfectly_sure_and_right_model_is_calibrated():
    labels = np.arange(6, dtype=np.int32)
    logits = 100 * np.eye(6, dtype=np.float32)
    feed = types.SimpleNamespace(
        steps_per_epoch=1, resident=None, plan=lambda number: (logits, labels, np.ones(6))
    )

    def step(shift, resident, plan):
        logits, labels, mask = plan
        return jax.jit(count)(logits, (labels + shift) % 6, mask.astype(np.float32))

    results = evaluate(step, {"right": 0, "wrong": 1}, feed)
    assert results["right"].calibration_error == pytest.approx(0, abs=1e-7)
    assert results["wrong"].calibration_error == pytest.approx(1, abs=1e-7)
    assert results["right"].accuracy == 1
    assert results["wrong"].accuracy == 0


def test_a_diverged_model_has_no_finite_loss():
    feed, step, *_ = made_up(3, 20, 8)
    result = evaluate(step, {"": np.nan}, feed)[""]
    assert np.isnan(result.loss)
    assert np.isnan(result.calibration_error)
    assert result.top5_accuracy == 0


def test_a_collapsed_model_is_noticed():
    collapsed = np.zeros((3, 3), int)
    collapsed[:, 1] = 5
    assert Evaluation(0.0, 0.3, 1.0, 0.0, 15, collapsed).only_prediction == 1
    assert Evaluation(0.0, 1.0, 1.0, 0.0, 15, np.diag([5, 5, 5])).only_prediction is None
