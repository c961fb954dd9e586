"""k-NN and the linear probe against scikit-learn, and a probe of a small model from end to end."""

import re

import jax
import numpy as np
import pytest
from inference.small_models import small_model, write_pictures
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vit_jax.commands.probe import probe
from vit_jax.data.catalog import open_source
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference import images as image_module
from vit_jax.inference import probe as module
from vit_jax.inference.probe import (
    choose_strength,
    fit_linear,
    knn,
    linear_logits,
    probe_saved,
    standardisation,
    standardised,
)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """One compiles fastest; many are tested with `forward`."""
    monkeypatch.setattr(image_module, "select_devices", lambda device: jax.local_devices()[:1])


def clouds(number, seed, classes=4, width=12, spread=1.5):
    """Features in overlapping clouds, of different scales, and labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(0, classes, number).astype(np.int32)
    features = centres[labels] + spread * rng.normal(size=(number, width))
    return (features * np.linspace(0.1, 5, width) + 0.3).astype(np.float32), labels


@pytest.mark.parametrize(("k", "largest"), [(1, 2**26), (20, 2**26), (20, 400 * 7), (400, 2**26)])
def test_knn_is_that_of_scikit_learn(monkeypatch, k, largest):
    monkeypatch.setattr(module, "LARGEST", largest)
    train, labels = clouds(400, seed=0)
    test, truth = clouds(150, seed=1)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(train, labels)
    found = knn(train, labels, test, 4, k)
    np.testing.assert_array_equal(found, reference.predict(test))
    if k == 20:
        assert 0.4 < (found == truth).mean() < 0.95


def test_near_neighbours_outvote_many_distant_ones():
    train = np.array([[1, 0], [0.5, 1], [0.5, 1], [0.5, 1]], np.float32)
    labels = np.array([0, 1, 1, 1], np.int32)
    assert knn(train, labels, np.array([[1, 0.1]], np.float32), 2, 4).tolist() == [0]
    assert knn(train, labels, np.array([[0.6, 1]], np.float32), 2, 4).tolist() == [1]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_linear_probe_is_that_of_scikit_learn(l2):
    train, labels = clouds(400, seed=0)
    test, _ = clouds(150, seed=1)
    scale = standardisation(train)
    train, test = standardised(train, scale), standardised(test, scale)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    reference = LogisticRegression(C=1 / (len(train) * l2), tol=1e-10, max_iter=10_000)
    reference.fit(np.float64(train), labels)
    linear = fit_linear(train, labels, 4, l2)
    # Both leave the biases' sum open.
    logits = np.asarray(linear_logits(linear, test))
    expected = reference.decision_function(np.float64(test))
    logits = logits - logits.mean(axis=1, keepdims=True)
    expected = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-3 * abs(expected).max())
    np.testing.assert_allclose(
        linear["kernel"], reference.coef_.T, rtol=0, atol=2e-3 * abs(reference.coef_).max()
    )
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))


def test_where_it_begins_does_not_matter():
    train, labels = clouds(300, seed=0)
    train = standardised(train, standardisation(train))
    far = {"kernel": 3 * jax.numpy.ones((12, 4)), "bias": jax.numpy.arange(4.0)}
    first, second = (fit_linear(train, labels, 4, 1e-2, start) for start in (None, far))
    np.testing.assert_allclose(first["kernel"], second["kernel"], rtol=0, atol=1e-3)


def test_noise_asks_for_more_strength_than_clear_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120).astype(np.int32)
    noise = rng.normal(size=(120, 60)).astype(np.float32)
    noise[:, 0] += labels
    clear = np.eye(60, dtype=np.float32)[labels] + 0.001 * noise
    assert choose_strength(noise, labels, 3) > 10 * choose_strength(clear, labels, 3)


def test_with_one_image_a_class_there_is_nothing_to_choose_by():
    assert choose_strength(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32), 3) == 1e-3


def test_a_feature_that_never_changes_stays_a_number():
    features = np.array([[1, 5], [2, 5]], np.float32)
    assert standardised(features, standardisation(features)).tolist() == [[-1, 0], [1, 0]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Dark and bright pictures, and one bad file, on which any model should do."""
    for split, number in (("train", 24), ("val", 9)):
        for label, name in enumerate(("dark", "light")):
            pixels = write_pictures(tmp_path / "set" / split / name, number) // 2 + 100 * label
            for place, image in enumerate(pixels):
                path = tmp_path / "set" / split / name / f"{place:02}.png"
                save(path, image)
    (tmp_path / "set" / "train" / "dark" / "bad.jpg").touch()
    monkeypatch.setattr(module, "open_model", lambda source, checkpoint: small_model())
    return tmp_path / "set"


def save(path, image):
    from PIL import Image

    Image.fromarray(image.astype(np.uint8)).save(path)


def test_a_folder_is_probed_by_its_training_and_validation_images(folder, capsys):
    data = DataConfig("folder", str(folder), train_split="train", eval_split="auto")
    found = probe_saved("small", DataConfig(**{**vars(data), "test_split": "auto"}), k=5)
    assert (found.width, found.train_images, found.test_images, found.k) == (16, 48, 18, 5)
    assert found.knn_accuracy == found.linear_accuracy == 1.0
    assert list(found.bad) == [str(folder / "train" / "dark" / "bad.jpg")]
    assert probe("small", data=str(folder), k=1000) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "k-NN          accuracy 100.00%, k=48, by cosine similarity"
    assert out.splitlines()[2].startswith("linear probe  accuracy 100.00%, L2 ")
    assert "bad.jpg is not an image" in err


def test_a_set_in_memory_is_resized(monkeypatch, capsys):
    saved = small_model(image_size=(12, 12), channels=1, mean=(0.3,), std=(0.3,))
    monkeypatch.setattr(module, "open_model", lambda source, checkpoint: saved)
    assert probe("small", data="digits") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "NOTE: images of 8x8 pixels are resized to 12x12"
    test = len(open_source(DataConfig("digits"), "test"))
    assert re.search(rf"16 features of [\d,]+ training images, tested on {test}$", out[1])
    assert float(out[3].split()[3].rstrip("%,")) > 60  # ten classes


def test_k_below_1_is_refused():
    with pytest.raises(DataError, match="k=0: should be at least 1"):
        probe_saved("small", k=0)
