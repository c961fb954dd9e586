import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from vit_jax.ops.losses import cross_entropy
from vit_jax.ops.metrics import Counts, count

CLASSES = 5


def make_batch(size, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, CLASSES)).astype(np.float32)
    # The last class is never a label: its row is there all the same.
    return logits, rng.integers(0, CLASSES - 1, size).astype(np.int32)


def run(logits, labels, mask):
    return jax.jit(count)(logits, labels, mask.astype(np.float32))


def test_confusion_equals_scikit_learn():
    logits, labels = make_batch(200)
    counts = run(logits, labels, np.ones(200))
    predictions = logits.argmax(axis=1)
    expected = confusion_matrix(labels, predictions, labels=range(CLASSES))
    assert (expected != expected.T).any()  # rows and columns cannot be exchanged
    np.testing.assert_array_equal(counts.confusion, expected)
    assert counts.confusion.dtype == jnp.int32
    np.testing.assert_allclose(
        counts.loss, cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).sum(), rtol=1e-6
    )
    assert counts.loss.dtype == jnp.float32
    assert counts.loss.shape == ()


@pytest.mark.parametrize("filler", [0, 1])
def test_padding_counts_nowhere(filler):
    logits, labels = make_batch(13)
    padding, padding_labels = make_batch(7, seed=1)
    padded = run(
        np.concatenate([logits, 100 * padding]),
        np.concatenate([labels, filler * padding_labels]),
        np.concatenate([np.ones(13), np.zeros(7)]),
    )
    plain = run(logits, labels, np.ones(13))
    np.testing.assert_array_equal(padded.confusion, plain.confusion)
    np.testing.assert_allclose(padded.loss, plain.loss, rtol=1e-6)
    assert int(padded.confusion.sum()) == 13


def test_padding_may_stand_anywhere():
    logits, labels = make_batch(9)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1])
    counts = run(logits, labels, mask)
    kept = np.flatnonzero(mask)
    expected = run(logits[kept], labels[kept], np.ones(5))
    np.testing.assert_array_equal(counts.confusion, expected.confusion)
    np.testing.assert_allclose(counts.loss, expected.loss, rtol=1e-6)


def test_counts_of_batches_add_up_to_those_of_all():
    logits, labels = make_batch(20)
    first = run(logits[:12], labels[:12], np.ones(12))
    total = jax.tree.map(jnp.add, first, run(logits[12:], labels[12:], np.ones(8)))
    assert isinstance(total, Counts)
    whole = run(logits, labels, np.ones(20))
    np.testing.assert_array_equal(total.confusion, whole.confusion)
    np.testing.assert_allclose(total.loss, whole.loss, rtol=1e-6)


def test_the_largest_logit_is_the_prediction():
    # One example of each label, predicted as the class two further; all logits are negative.
    labels = np.arange(CLASSES, dtype=np.int32)
    logits = np.roll(np.eye(CLASSES, dtype=np.float32), 2, axis=1) - 10
    confusion = run(logits, labels, np.ones(CLASSES)).confusion
    np.testing.assert_array_equal(confusion, np.roll(np.eye(CLASSES), 2, axis=1))
