import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from vit_jax.ops.losses import cross_entropy
from vit_jax.ops.metrics import BINS, Counts, add, among_largest, count

CLASSES = 7


def make_batch(size, seed=0, classes=CLASSES):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(size, classes)).astype(np.float32)
    # The last class is never a label: its row is there all the same.
    return logits, rng.integers(0, classes - 1, size).astype(np.int32)


def run(logits, labels, mask):
    return jax.jit(count)(logits, labels, mask.astype(np.float32))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def bins_in_numpy(logits, labels):
    """Examples, right ones and sum of confidences of each bin, one bin after another."""
    confidence, right = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    sums = []
    for number in range(15):
        inside = (confidence > np.float32(number / 15)) & (
            confidence <= np.float32((number + 1) / 15)
        )
        sums.append((inside.sum(), (inside & right).sum(), confidence[inside].sum(dtype=float)))
    return np.array(sums).T


def assert_same(found, expected):
    """Whole numbers exactly, sums of float32 but for their rounding."""
    for name in ("confusion", "top5", "bin_examples", "bin_correct"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    for name in ("loss", "bin_confidence"):
        a, b = (np.asarray(getattr(x, name), np.float64).sum(axis=0) for x in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)


def test_confusion_equals_scikit_learn():
    logits, labels = make_batch(200)
    counts = run(logits, labels, np.ones(200))
    predictions = logits.argmax(axis=1)
    expected = confusion_matrix(labels, predictions, labels=range(CLASSES))
    assert (expected != expected.T).any()  # rows and columns cannot be exchanged
    np.testing.assert_array_equal(counts.confusion, expected)
    assert counts.confusion.dtype == jnp.int32


def test_loss_equals_scikit_learn():
    logits, labels = make_batch(200)
    loss = run(logits, labels, np.ones(200)).loss
    assert loss.dtype == jnp.float32
    probabilities = softmax(logits.astype(np.float64))
    expected = log_loss(labels, probabilities, labels=range(CLASSES), normalize=False)
    assert float(loss.sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [6, 7, 40])
def test_top5_equals_scikit_learn(classes):
    logits, labels = make_batch(300, classes=classes)
    top5 = run(logits, labels, np.ones(300)).top5
    assert top5.dtype == jnp.int32
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(classes), normalize=False)
    assert int(top5) == expected
    assert 0 < expected < 300


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_every_label_is_among_the_largest_five_of_five_classes_or_fewer(classes):
    logits, labels = make_batch(30, classes=classes)
    assert int(run(logits, labels, np.ones(30)).top5) == 30


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_of_equal_logits_those_of_lower_classes_count_as_larger(number):
    # Few values, so that there are many ties; lax.top_k and argmax have the same order.
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (400, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 400).astype(np.int32)
    found = among_largest(jnp.asarray(logits), jnp.asarray(labels), number)
    _, largest = jax.lax.top_k(logits, number)
    expected = (np.asarray(largest) == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(found, expected)
    if number == 1:
        np.testing.assert_array_equal(found, logits.argmax(axis=1) == labels)


def test_equal_logits_for_all_classes_are_no_success():
    labels = np.arange(20, dtype=np.int32)
    assert int(run(np.zeros((20, 20), np.float32), labels, np.ones(20)).top5) == 5


@pytest.mark.parametrize("classes", [3, 5, 8])
def test_nan_is_not_among_the_largest(classes):
    logits, labels = make_batch(30, classes=classes)
    mask = np.ones(30)
    logits[np.arange(30), labels] = np.nan
    assert int(run(logits, labels, mask).top5) == 0
    assert int(run(np.full_like(logits, np.nan), labels, mask).top5) == 0
    assert np.isnan(run(logits, labels, mask).loss).any()


def test_a_nan_stands_before_every_number():
    # Five NaN beside the label leave it no place, four do.
    nan = np.nan
    logits = np.array([[nan] * 5 + [0, 9], [nan] * 4 + [0, 0, 9]], np.float32)
    labels = jnp.array([6, 6])
    assert among_largest(jnp.asarray(logits), labels, 5).tolist() == [False, True]


def test_bins_equal_a_loop_over_them():
    logits, labels = make_batch(2000)
    # From hardly any confidence to much.
    logits *= np.linspace(0.3, 3, 2000, dtype=np.float32)[:, None]
    counts = run(logits, labels, np.ones(2000))
    examples, right, confidence = bins_in_numpy(logits, labels)
    assert (examples > 0).sum() >= 12
    np.testing.assert_array_equal(counts.bin_examples, examples)
    np.testing.assert_array_equal(counts.bin_correct, right)
    np.testing.assert_allclose(counts.bin_confidence.sum(axis=0), confidence, rtol=1e-6)
    assert int(counts.bin_examples.sum()) == 2000
    assert int(counts.bin_correct.sum()) == int(np.trace(counts.confusion))


@pytest.mark.parametrize(("classes", "number"), [(3, 5), (5, 3), (15, 1), (1, 15)])
def test_a_confidence_on_an_edge_is_in_the_bin_below(classes, number):
    counts = run(np.zeros((4, classes), np.float32), np.zeros(4, np.int32), np.ones(4))
    assert np.flatnonzero(counts.bin_examples).tolist() == [number - 1]


@pytest.mark.parametrize("filler", [0, 1, np.nan])
def test_padding_counts_nowhere(filler):
    logits, labels = make_batch(13)
    padding, padding_labels = make_batch(7, seed=1)
    padded = run(
        np.concatenate([logits, filler * padding]),
        np.concatenate([labels, padding_labels]),
        np.concatenate([np.ones(13), np.zeros(7)]),
    )
    assert_same(padded, run(logits, labels, np.ones(13)))
    assert int(padded.confusion.sum()) == int(padded.bin_examples.sum()) == 13


def test_padding_may_stand_anywhere():
    logits, labels = make_batch(9)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1])
    kept = np.flatnonzero(mask)
    assert_same(run(logits, labels, mask), run(logits[kept], labels[kept], np.ones(5)))


def test_counts_of_batches_add_up_to_those_of_all():
    logits, labels = make_batch(20)
    first = run(logits[:12], labels[:12], np.ones(12))
    total = jax.jit(add)(first, run(logits[12:], labels[12:], np.ones(8)))
    assert isinstance(total, Counts)
    assert jax.tree.map(lambda x: x.dtype, total) == jax.tree.map(lambda x: x.dtype, first)
    assert_same(total, run(logits, labels, np.ones(20)))


def test_sums_over_many_batches_lose_nothing():
    # 1.3 M examples in batches of 256, all alike, so that roundings do not cancel either.
    logits, labels = make_batch(256)
    batch = run(logits, labels, np.ones(256))
    number = 5078

    def sum_with(plus):
        def body(_, total):
            return plus(total, batch)

        zero = jax.tree.map(jnp.zeros_like, batch)
        return jax.jit(lambda: jax.lax.fori_loop(0, number, body, zero))()

    def worst(total):
        return max(
            np.max(abs(np.asarray(x, np.float64).sum(axis=0) / (number * np.maximum(y, 1)) - 1))
            for x, y in (
                (total.loss, np.float64(batch.loss[0])),
                (
                    total.bin_confidence[:, 10:],
                    np.asarray(batch.bin_confidence, np.float64)[0, 10:],
                ),
            )
        )

    total = sum_with(add)
    assert worst(total) < 1e-12
    assert int(total.confusion.sum()) == number * 256
    # Plainly added, as here, they would be off.
    assert worst(sum_with(functools.partial(jax.tree.map, jnp.add))) > 1e-6


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_counts_do_not_depend_on_the_number_of_devices(devices, parallel):
    logits, labels = make_batch(40)
    mask = np.arange(40) < 33
    expected = run(logits, labels, mask)
    batch = logits, labels, mask.astype(np.float32)
    if parallel == "pmap":
        shares = [x.reshape(devices, -1, *x.shape[1:]) for x in batch]
        step = jax.pmap(lambda *x: jax.lax.psum(count(*x), "data"), "data", out_axes=None)
        found = step(*shares)
    else:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        spread = NamedSharding(mesh, PartitionSpec("data"))
        found = jax.jit(count)(*jax.device_put(batch, spread))
    assert_same(found, expected)


def test_the_largest_logit_is_the_prediction():
    # One example of each label, predicted as the class two further; all logits are negative.
    labels = np.arange(CLASSES, dtype=np.int32)
    logits = np.roll(np.eye(CLASSES, dtype=np.float32), 2, axis=1) - 10
    confusion = run(logits, labels, np.ones(CLASSES)).confusion
    np.testing.assert_array_equal(confusion, np.roll(np.eye(CLASSES), 2, axis=1))


def test_bfloat16_logits_are_counted_in_float32():
    logits, labels = make_batch(50)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    counts = run(rounded, labels, np.ones(50))
    assert counts.loss.dtype == counts.bin_confidence.dtype == jnp.float32
    np.testing.assert_allclose(
        counts.loss[0], cross_entropy(rounded, jnp.asarray(labels)).sum(), rtol=1e-6
    )
    assert_same(counts, run(rounded.astype(jnp.float32), labels, np.ones(50)))
    assert len(counts.bin_examples) == BINS
