import dataclasses

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from vit_jax.data.catalog import open_source
from vit_jax.train import setup
from vit_jax.train.evaluate import Evaluation, evaluate


@pytest.mark.parametrize("batch_size", [56, 1024])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_every_image_counts_once(plain_config, batch_size, num_devices, monkeypatch):
    devices = jax.local_devices()[:num_devices]
    monkeypatch.setattr(setup, "select_devices", lambda device: devices)
    model = dataclasses.replace(plain_config.model, head_zero_init=False)
    job = setup.set_up(dataclasses.replace(plain_config, model=model, batch_size=batch_size))
    params = job.initial_state().params
    result = evaluate(job.eval_step, params, job.test_feed)

    source = open_source(job.config.data, "test")
    data = job.config.data
    pixels = (source.images / 255 - np.array(data.mean)) / np.array(data.std)
    logits = job.config.model.apply({"params": params}, pixels.astype(np.float32))
    losses = -jax.nn.log_softmax(logits)[np.arange(355), source.labels]
    predictions = np.asarray(logits.argmax(axis=1))
    assert result.examples == 355
    np.testing.assert_array_equal(
        result.confusion, confusion_matrix(source.labels, predictions, labels=range(10))
    )
    assert result.accuracy == pytest.approx(np.mean(predictions == source.labels), abs=1e-12)
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_collapsed_model_is_noticed():
    collapsed = np.zeros((3, 3), int)
    collapsed[:, 1] = 5
    assert Evaluation(0.0, 0.3, 15, collapsed).only_prediction == 1
    assert Evaluation(0.0, 1.0, 15, np.diag([5, 5, 5])).only_prediction is None
