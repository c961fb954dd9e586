import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.ops.losses import cross_entropy


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(11, 7))
    labels = rng.integers(0, 7, 11)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.6, 1.0])
def test_equals_torch_and_so_do_the_gradients(label_smoothing, batch):
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    logits, labels = batch
    weights = np.random.default_rng(1).normal(size=11).astype(np.float32)
    their_logits = torch.tensor(np.asarray(logits), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        their_logits,
        torch.tensor(np.asarray(labels)).long(),
        label_smoothing=label_smoothing,
        reduction="none",
    )
    (expected * torch.tensor(weights)).sum().backward()

    def weighted(logits):
        losses = cross_entropy(logits, labels, label_smoothing)
        return (losses * weights).sum(), losses

    gradient, losses = jax.grad(weighted, has_aux=True)(logits)
    assert losses.shape == (11,)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, their_logits.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_equals_its_definition(label_smoothing, batch):
    logits, labels = (np.asarray(x, np.float64) for x in batch)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (1 - label_smoothing) * np.eye(7)[labels.astype(int)] + label_smoothing / 7
    expected = -(target * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose(cross_entropy(*batch, label_smoothing), expected, rtol=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    losses = cross_entropy(jnp.zeros((2, 10)), jnp.array([0, 9]))
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]])
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(cross_entropy(logits, labels), [0, 2e4], rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, labels).sum())(logits)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [1, 0, -1]], atol=1e-6)


def test_bfloat16_logits_have_a_float32_loss(batch):
    logits, labels = batch
    rounded = logits.astype(jnp.bfloat16)
    losses = cross_entropy(rounded, labels)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, cross_entropy(rounded.astype(jnp.float32), labels))
